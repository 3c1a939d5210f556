"""`python -m kernel.tests.extensions FOLDER` writes a copy of the service there, in which its team
has changed all that it may: the whole suite has to pass in it, too."""

import sys
from pathlib import Path

from kernel.tests.extensions.changes import change_everything
from kernel.tests.extensions.copies import copy_to

if len(sys.argv) != 2:  # the command and the folder
    raise SystemExit(__doc__)
change_everything(copy_to(Path(sys.argv[1])))
