"""Which short ways are off: in tests alone, that ask whether each is equal to the long one."""

OFF: set[str] = set()
"""Names out of `plan`, `switchboard`, `statements`, `rows`."""
