"""Work after the commit: the table of jobs, tasks, the worker, and what runs on a schedule."""
