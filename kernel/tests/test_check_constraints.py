"""Autogenerate sees what a CHECK constraint says, and writes a change that keeps nobody waiting."""

import ast
from typing import Literal

import pytest
from sqlalchemy import Column, MetaData, String, Table, text

import kernel.dev.check_constraints  # noqa: F401  # it registers itself
from kernel.data.models import one_of
from kernel.tests.autogenerate import connect, steps_of_orders

BEFORE = """CREATE TABLE peeled_orders (
    state varchar(20) NOT NULL, CONSTRAINT ck_peeled_orders_state CHECK ({})
)"""
AS_IT_IS = "state IN ('open', 'paid')"
STATES = {"same": Literal["open", "paid"], "one more": Literal["open", "paid", "sent"]}


def steps(connection, states, **rules):
    """What autogenerate writes, there and back, when these are the states of an order."""
    metadata = MetaData(naming_convention={"ck": "ck_%(table_name)s_%(constraint_name)s"})
    state = Column("state", String(20), nullable=False)
    Table("peeled_orders", metadata, state, *([one_of("state", states)] if states else []))
    return steps_of_orders(connection, metadata, **rules)


@pytest.fixture
def compare(database):
    async def compare(states, rule=AS_IT_IS):
        async with database() as url, connect(url) as connection:
            await connection.exec_driver_sql(BEFORE.format(rule))
            return await connection.run_sync(steps, states)

    return compare


@pytest.mark.parametrize("rule", [AS_IT_IS, "state = 'open' OR state = 'paid'"])
async def test_a_constraint_as_it_is_in_the_model_needs_no_step(compare, rule):
    there, back = await compare(STATES["same"], rule)
    assert ("ck_peeled_orders_state" in there, "ck_peeled_orders_state" in back) == (
        rule != AS_IT_IS,
    ) * 2


async def test_a_changed_constraint_is_added_not_valid_and_validated_apart(compare):
    there, back = await compare(STATES["one more"])
    drop, create, validate = (there.index(w) for w in ("drop_con", "create_check", "VALIDATE"))
    assert drop < create < there.index("postgresql_not_valid=True") < validate
    assert there.index("autocommit_block") < validate
    assert "'sent'" in there
    assert "'sent'" not in back
    assert "state IN (" in back
    assert back.index("drop_con") < back.index("create_check") < back.index("VALIDATE")


async def test_a_constraint_that_the_model_does_not_have_is_dropped(compare):
    there, back = await compare(None)
    assert "drop_constraint" in there
    assert "create_check_constraint" not in there
    assert back.index("create_check_constraint") < back.index("VALIDATE")


ODD = Literal["new", ":b", " :c d", "it's", "100%", "a::b"]


async def test_a_step_is_what_the_model_says_whatever_its_values_are(compare):
    there, _ = await compare(ODD)
    calls = [
        node for node in ast.walk(ast.parse(f"if True:\n    {there}")) if isinstance(node, ast.Call)
    ]
    (add,) = (each for each in calls if ast.unparse(each.func) == "op.create_check_constraint")
    condition = text(ast.literal_eval(add.args[2]))
    assert str(condition) == "state IN ('new', ':b', ' :c d', 'it''s', '100%', 'a::b')"
    assert condition._bindparams == {}


async def test_a_step_that_was_given_up_half_way_can_be_run_again(compare):
    there, back = await compare(STATES["one more"])
    assert there.index("if_exists=True") < there.index("create_check_constraint")
    assert back.index("if_exists=True") < back.index("create_check_constraint")
