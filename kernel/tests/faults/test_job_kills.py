"""The drills of jobs, shorter."""

import pytest

from kernel.tests.faults.jobs import killed, limited, scheduled, terminated
from kernel.tests.faults.postgres import postgres

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.house]


async def test_jobs_survive_what_is_killed_and_told_to_end(tmp_path):
    async with postgres(tmp_path) as server:
        rows = await killed(server, jobs=60, workers=2, servers=1)
        rows += await terminated(server)
        rows += await scheduled(server, ticks=4)
        rows += await limited(server)
    assert [row for row in rows if not row.holds] == []
    assert len(rows) == 9
