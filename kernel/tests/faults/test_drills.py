"""The short drills, and that no drill passes which was not run to its end."""

import pytest

from kernel.tests.faults import drilling
from kernel.tests.faults.drilling import Drill, Row, rows_of
from kernel.tests.faults.drills import DRILLS

pytestmark = pytest.mark.house  # they run with `deploy/` and the Dockerfile, which are a team's


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("name", ["deploy", "D14"])
async def test_a_drill_holds(name):
    rows = await rows_of(DRILLS[name])
    assert len(rows) >= 3
    assert [row for row in rows if not row.holds] == []


async def well(_):
    return [Row("all is well", "1", holds=True)]


async def broken(_):
    raise TimeoutError("not within 20 s")


async def test_a_drill_without_its_program_has_failed():
    [row] = await rows_of(Drill("X", "it holds", ("sh", "no-such-program"), well))
    assert row == Row("it holds", "no-such-program is not installed", holds=False)


async def test_a_drill_that_breaks_off_has_failed(capsys):
    [row] = await rows_of(Drill("X", "it holds", (), broken))
    assert row == Row("it holds", "broke off: TimeoutError not within 20 s", holds=False)
    assert "in broken" in capsys.readouterr().err


@pytest.mark.parametrize(("drills", "status"), [("AB", 1), ("A", 0), ("C", 2)])
def test_the_status_tells_whether_all_hold(monkeypatch, capsys, drills, status):
    known = {"A": Drill("A", "a", (), well), "B": Drill("B", "b", ("no-such-program",), well)}
    monkeypatch.setattr(drilling, "DRILLS", known)
    assert drilling.main([*drills]) == status
    out = capsys.readouterr().out
    assert ("| A | all is well | 1 | holds |" in out) == (status != 2)
    assert ("| B | b | no-such-program is not installed | **fails** |" in out) == (status == 1)
