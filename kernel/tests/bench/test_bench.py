"""That the benchmark compares like with like, so that it cannot rot between its runs."""

import pytest

from kernel.settings import ROOT
from kernel.tests.bench.alike import GET, LIST, POST, SYSTEMS, check
from kernel.tests.bench.stage import fill


@pytest.mark.slow
async def test_the_compared_systems_give_the_same_answers(postgres, tmp_path):
    waits = await check(await fill(postgres, 1000, 2), tmp_path)
    by_hand, service, long_way, fastapi, layout = (
        [waits[each, system] for each in (GET, LIST, POST)] for system in SYSTEMS
    )
    assert by_hand == service == long_way
    # What asyncpg's pool resets, when it gets a connection back, is one more.
    assert fastapi == [ours + 1 for ours in service]
    assert all(theirs > ours for theirs, ours in zip(layout, service, strict=True))


if not (ROOT / "features/items").exists():
    del test_the_compared_systems_give_the_same_answers  # it takes items to measure
