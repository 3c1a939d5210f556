"""The drills, as a table: `uv run python -m kernel.tests.faults`, with names behind it for some.

Each starts servers of its own on 127.0.0.1 and ends them; all together take about 20 minutes. The
exit status is 0 when everything holds. `--list` tells their names.
"""

import sys

from kernel.tests.faults.drilling import main
from kernel.tests.faults.drills import DRILLS

if sys.argv[1:] == ["--list"]:
    for each in DRILLS.values():
        needs = f" (needs {', '.join(each.programs)})" if each.programs else ""
        print(f"{each.name:10} {each.what}{needs}")
else:
    sys.exit(main(sys.argv[1:]))
