"""The walks over what clients send, run over the tests' own slices."""

import pytest
from sqlalchemy import func, select

from kernel.testing.contract import *  # noqa: F403
from kernel.testing.injections import *  # noqa: F403
from kernel.testing.injections import races
from kernel.testing.pages import *  # noqa: F403
from kernel.testing.query_plans import *  # noqa: F403
from kernel.testing.reads import *  # noqa: F403


def test_there_is_something_to_race_for(walk):
    assert "POST /peeled_tags" in [str(each) for each in walk.operations if races(each)]


@pytest.mark.parametrize("reader", ["reader", "primary"])
async def test_what_a_get_reads_with_cannot_write(app, reader):
    setting = func.current_setting("transaction_read_only").label("setting")
    found = await getattr(app.state.resources, reader).fetch(select(setting))
    assert [dict(row) for row in found] == [{"setting": "on"}]
