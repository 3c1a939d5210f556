"""What the kernel's tests put beside a team's slices has names that no team's slice wants.

A team's suite runs these tests in an app and a database that has the team's own tables and routes.
"""

import re
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from kernel.tests import articles, peelings, statement_tables, test_filters, test_keysets
from kernel.tests.app import OWN_TABLES, WALK

pytestmark = pytest.mark.house
HERE = Path(__file__).parent
MADE = re.compile(r"""sql\.execute\(\s*f?["']+\s*CREATE (?:TABLE|TYPE|COLLATION) (\w+)""")


def unlike(names):
    return sorted({name for name in names if "peel" not in name.lower()})


def test_tables_have_a_name_of_the_tests_own():
    tables = [statement_tables.OWN, test_filters.tables, test_keysets.tables]
    names = [*OWN_TABLES, *(name for each in tables for name in each.tables)]
    texts = [path.read_text() for path in HERE.glob("*.py")]
    names += [name for text in texts for name in MADE.findall(text)]
    assert len(names) > 20
    assert unlike(names) == []


def test_columns_that_refer_to_those_tables_have_names_of_the_tests_own():
    tables = [SQLModel.metadata.tables[name] for name in OWN_TABLES]
    keys = [key for table in tables for key in table.foreign_keys]
    ours = [key.parent.name for key in keys if key.column.table.name in OWN_TABLES]
    assert (len(ours), unlike(ours)) == (3, [])


def test_operations_paths_and_schemas_have_names_of_the_tests_own():
    names = [name for each in WALK.operations for name in (each.name, each.path.split("/")[1])]
    names += [each for path in WALK.operations for each in re.findall(r"{(\w+)", path.path)]
    names += [tag for each in WALK.operations for tag in each.spec["tags"]]
    assert len(names) > 50
    assert unlike(names) == []
    for package in (articles, peelings):
        kept = vars(package.models).values()
        models = [each for each in kept if isinstance(each, type) and issubclass(each, SQLModel)]
        own = [each.__name__ for each in models if each.__module__ == package.models.__name__]
        assert own
        assert unlike(own) == []
