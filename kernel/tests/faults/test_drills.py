"""The short drills, and that no drill passes which was not run to its end."""

from collections import Counter

import pytest

from kernel.tests.faults import drilling
from kernel.tests.faults.drilling import Drill, Row, rows_of
from kernel.tests.faults.drills import DRILLS
from kernel.tests.faults.load import KEYED, READ, Load, Seen

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


class Stored:
    """A database that has these titles."""

    def __init__(self, *titles):
        self.titles = titles

    async def fetch(self, _):
        return [{"title": title, "count": count} for title, count in Counter(self.titles).items()]


@pytest.mark.parametrize(
    ("titles", "told"),
    [
        ("abu", "2 acknowledged: 0 lost, 0 doubled, 0 strange"),
        ("abp", "2 acknowledged: 0 lost, 0 doubled, 0 strange"),
        ("a", "2 acknowledged: 1 lost, 0 doubled, 0 strange"),
        ("abb", "2 acknowledged: 0 lost, 1 doubled, 0 strange"),
        ("abuu", "2 acknowledged: 0 lost, 1 doubled, 0 strange"),
        ("abx", "2 acknowledged: 0 lost, 0 doubled, 1 strange"),
    ],
)
async def test_the_ledger_sees_what_is_lost_doubled_or_strange(titles, told):
    load = Load("", [], acknowledged={*"ab"}, pending={"p"}, uncertain={"u"})
    row = await load.ledger(Stored(*titles))
    assert (row.figure, row.holds) == (told, told.count(" 0 ") == 3)


def test_none_failed_means_that_somebody_asked():
    load = Load("", [])
    assert not load.none_failed("well").holds
    load.seen = [Seen(1, 0, READ, 200), Seen(2, 0, KEYED, 201)]
    assert load.none_failed("well").holds
    assert not load.none_failed("well", READ, since=2).holds
    load.seen.append(Seen(3, 0, READ, "ReadError"))
    assert load.none_failed("well", KEYED).holds
    assert load.none_failed("well").figure == "1 of 3 failed, 1 of read: ReadError"
