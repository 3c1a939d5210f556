"""The lint of migrations: each kind of step that blocks or breaks a service, and its safe form."""

from textwrap import indent

import pytest

from kernel.testing.safe_ways import BREAKING, SAFE_WAYS
from kernel.testing.steps import unsafe_steps

HEAD = """import sqlalchemy as sa
from alembic import op

"""
AUTOCOMMIT = "with op.get_context().autocommit_block():\n    "
BATCHES = (
    'op.execute("DO $$ BEGIN LOOP UPDATE users SET x = 1 WHERE id IN'
    " (SELECT id FROM users WHERE x IS NULL LIMIT 1000);"
    ' EXIT WHEN NOT FOUND; COMMIT; END LOOP; END $$")'
)
BATCH = "with op.batch_alter_table('users') as batch:\n    batch.drop_column('x')"
NEW_TABLE = "op.create_table('users', sa.Column('id', sa.BigInteger()))\n"
FILL = "sa.table('users', sa.column('x', sa.Integer))"

# Of each kind: a step that is bad, and one that does the same and is fine.
KINDS = [
    pytest.param(
        "require-concurrent-index-creation",
        "op.create_index('ix', 'users', ['x'])",
        f"{AUTOCOMMIT}op.create_index('ix', 'users', ['x'], postgresql_concurrently=True)",
        id="index",
    ),
    pytest.param(
        "require-concurrent-index-creation",
        "op.create_index(op.f('ix'), 'users', ['x'], unique=True, postgresql_concurrently=False)",
        f"{AUTOCOMMIT}op.execute('CREATE UNIQUE INDEX CONCURRENTLY ix ON users (x)')",
        id="unique index",
    ),
    pytest.param(
        "ban-concurrent-index-creation-in-transaction",
        "op.create_index('ix', 'users', ['x'], postgresql_concurrently=True)",
        f"{AUTOCOMMIT}op.create_index('ix', 'users', ['x'], postgresql_concurrently=True)",
        id="concurrent index in a transaction",
    ),
    pytest.param(
        "require-concurrent-reindex",
        "op.execute('REINDEX TABLE users')",
        f"{AUTOCOMMIT}op.execute('REINDEX TABLE CONCURRENTLY users')",
        id="reindex",
    ),
    pytest.param(
        "adding-required-field",
        "op.add_column('users', sa.Column('x', sa.Text(), nullable=False))",
        "op.add_column('users', sa.Column('x', sa.Text(), nullable=False, server_default=''))",
        id="required column",
    ),
    *(
        pytest.param(
            "adding-field-with-default",
            f"op.add_column('users', sa.Column('x', sa.Text(), server_default=sa.text('{bad}')))",
            f"op.add_column('users', sa.Column('x', sa.Text(), server_default=sa.text('{fine}')))",
            id=f"default {bad}",
        )
        for bad, fine in {
            "gen_random_uuid()": "-1",
            "clock_timestamp()": "now()",
            "random()": "CURRENT_TIMESTAMP",
            "nextval(chr(97))": "false",
        }.items()
    ),
    pytest.param(
        "adding-field-with-default",
        "op.execute('ALTER TABLE users ADD x bigserial')",
        "op.execute('ALTER TABLE users ADD x bigint')",
        id="serial column",
    ),
    pytest.param(
        "changing-column-type",
        "op.alter_column('users', 'x', type_=sa.BigInteger(), existing_type=sa.Integer())",
        "op.add_column('users', sa.Column('y', sa.BigInteger()))",
        id="type",
    ),
    pytest.param(
        "changing-column-type",
        "op.alter_column('users', 'x', type_=sa.String(9), existing_type=sa.String(10))",
        "op.alter_column('users', 'x', type_=sa.String(11), existing_type=sa.String(10))",
        id="shorter text",
    ),
    pytest.param(
        "changing-column-type",
        "op.alter_column('users', 'x', type_=sa.String(11))",
        "op.alter_column('users', 'x', type_=sa.Text(), existing_type=sa.String(10))",
        id="text that was who knows what",
    ),
    pytest.param(
        "adding-not-nullable-field",
        "op.alter_column('users', 'x', nullable=False)",
        "op.create_check_constraint('ck', 'users', 'x IS NOT NULL', postgresql_not_valid=True)\n"
        f"{AUTOCOMMIT}op.execute('ALTER TABLE users VALIDATE CONSTRAINT ck')\n"
        "op.alter_column('users', 'x', nullable=False)\n"
        "op.drop_constraint('ck', 'users')",
        id="not null",
    ),
    pytest.param(
        "renaming-column",
        "op.alter_column('users', 'x', new_column_name='y')",
        "op.add_column('users', sa.Column('y', sa.Text()))",
        id="column's name",
    ),
    pytest.param(
        "renaming-table",
        "op.rename_table('users', 'people')",
        "op.execute('CREATE VIEW people AS TABLE users')",
        id="table's name",
    ),
    pytest.param(
        "ban-drop-column",
        "op.drop_column('users', 'x')",
        "op.alter_column('users', 'x', nullable=True, server_default='')",
        id="column dropped",
    ),
    pytest.param(
        "ban-drop-table",
        "op.drop_table('users')",
        "op.drop_table('users')  # accepted: no code reads it since release 12",
        id="table dropped",
    ),
    pytest.param(
        "adding-foreign-key-constraint",
        "op.create_foreign_key('fk', 'items', 'users', ['x'], ['id'])",
        "op.create_foreign_key('fk', 'items', 'users', ['x'], ['id'], postgresql_not_valid=True)\n"
        f"{AUTOCOMMIT}op.execute('ALTER TABLE items VALIDATE CONSTRAINT fk')",
        id="foreign key",
    ),
    pytest.param(
        "adding-foreign-key-constraint",
        "op.add_column('items', sa.Column('x', sa.BigInteger(), sa.ForeignKey('users.id')))",
        "op.add_column('items', sa.Column('x', sa.BigInteger()))",
        id="foreign key of a new column",
    ),
    pytest.param(
        "constraint-missing-not-valid",
        "op.create_check_constraint('ck', 'users', 'x > 0')",
        "op.create_check_constraint('ck', 'users', 'x > 0', postgresql_not_valid=True)\n"
        f"{AUTOCOMMIT}op.execute('ALTER TABLE users VALIDATE CONSTRAINT ck')",
        id="check",
    ),
    pytest.param(
        "constraint-missing-not-valid",
        "op.create_check_constraint('ck', 'users', 'x > 0', postgresql_not_valid=True)\n"
        "op.execute('ALTER TABLE users VALIDATE CONSTRAINT ck')",
        "op.create_check_constraint('ck', 'users', 'x > 0', postgresql_not_valid=True)",
        id="validated at once",
    ),
    pytest.param(
        "constraint-missing-not-valid",
        "op.execute('ALTER TABLE users ADD COLUMN x integer CHECK (x > 0)')",
        "op.execute('ALTER TABLE users ADD COLUMN x integer')",
        id="check of a new column",
    ),
    pytest.param(
        "disallowed-unique-constraint",
        "op.create_unique_constraint('uq', 'users', ['x'])",
        f"{AUTOCOMMIT}op.create_index('uq', 'users', ['x'], unique=True,"
        " postgresql_concurrently=True)\n"
        "op.execute('ALTER TABLE users ADD CONSTRAINT uq UNIQUE USING INDEX uq')",
        id="unique constraint",
    ),
    pytest.param(
        "adding-serial-primary-key-field",
        "op.create_primary_key('pk', 'users', ['x'])",
        "op.execute('ALTER TABLE users ADD CONSTRAINT pk PRIMARY KEY USING INDEX pk')",
        id="primary key",
    ),
    pytest.param(
        "exclusion",
        "op.create_exclude_constraint('ex', 'users', ('x', '='))",
        "op.create_table('n', sa.Column('x', sa.Integer()), "
        "sa.CheckConstraint('x > 0'))\nop.execute('ALTER TABLE n ADD EXCLUDE (x WITH =)')",
        id="exclusion constraint",
    ),
    pytest.param("all-rows", "op.execute('UPDATE users SET x = 1')", BATCHES, id="update"),
    pytest.param(
        "all-rows",
        "op.execute('/* all */ UPDATE users SET x = 1 -- WHERE id = 1')",
        "op.execute('UPDATE users SET x = 1 WHERE id = 1')",
        id="update with comments",
    ),
    pytest.param(
        "all-rows",
        "op.execute('UPDATE users SET x = 1 WHERE x IS NULL')",
        "op.execute('UPDATE users SET x = 1 WHERE id BETWEEN 1 AND 1000')",
        id="update of a new column",
    ),
    pytest.param(
        "all-rows",
        "op.execute('UPDATE items SET x = users.x FROM users WHERE users.id = items.owner_id')",
        "op.execute(\"UPDATE users SET x = 1 WHERE email = 'a@example.com'\")",
        id="update from another table",
    ),
    pytest.param(
        "all-rows",
        f"op.execute({FILL}.update().values(x=1))",
        f"op.execute({FILL}.update().values(x=1).where(sa.column('id').in_([1, 2])))",
        id="update by SQLAlchemy",
    ),
    pytest.param(
        "all-rows",
        "op.execute('DELETE FROM users')",
        "op.execute('DELETE FROM users WHERE id <= 1000')",
        id="delete",
    ),
    pytest.param(
        "all-rows",
        "op.execute('DO $$ BEGIN UPDATE users SET x = 1; END $$')",
        BATCHES,
        id="update inside",
    ),
    pytest.param(
        "table-lock",
        "op.execute('LOCK TABLE users')",
        "op.execute('SELECT 1')",
        id="lock",
    ),
    pytest.param(
        "truncate",
        "op.execute('TRUNCATE users')",
        "op.execute('DELETE FROM users WHERE id IN (SELECT id FROM users LIMIT 1000)')",
        id="truncate",
    ),
    pytest.param(
        "hidden",
        "op.execute(\"DO $$ BEGIN EXECUTE 'ALTER TABLE users DROP x'; END $$\")",
        BATCHES,
        id="hidden",
    ),
    pytest.param(
        "syntax-error", "op.execute('ALTER TABL users')", "op.execute('SELECT 1')", id="no SQL"
    ),
    pytest.param(
        "unreadable",
        "op.get_bind().execute(sa.text('SELECT id FROM users')).all()",
        "op.get_bind().execute(sa.text('UPDATE users SET x = 1 WHERE id = 1'))",
        id="asks the database",
    ),
    pytest.param(
        "ban-drop-type",
        "op.execute('DROP TYPE t')",
        "op.execute('CREATE TYPE t AS ()')",
        id="type dropped",
    ),
    pytest.param(
        "ban-drop-schema",
        "op.execute('DROP SCHEMA s')",
        "op.execute('CREATE SCHEMA s')",
        id="schema",
    ),
    pytest.param(
        "ban-drop-view",
        "op.execute('DROP VIEW v')",
        "op.execute('CREATE OR REPLACE VIEW v AS TABLE users')",
        id="view",
    ),
    pytest.param(
        "ban-set-schema",
        "op.execute('ALTER TABLE users SET SCHEMA s')",
        "op.execute('CREATE VIEW s.users AS TABLE users')",
        id="table moved",
    ),
]


@pytest.fixture
def found(tmp_path):
    """What the lint says of a migration whose steps are as given."""

    def find(upgrade="pass", downgrade="pass", head=HEAD):
        path = tmp_path / "1_step.py"
        steps = {"upgrade": upgrade, "downgrade": downgrade}
        functions = [f"def {name}():\n{indent(step, '    ')}\n" for name, step in steps.items()]
        path.write_text(head + "\n\n".join(functions))
        return unsafe_steps(path)

    return find


@pytest.mark.parametrize(("kind", "bad", "fine"), KINDS)
def test_a_step_that_blocks_or_breaks_is_told_with_the_safe_way(found, kind, bad, fine):
    (told,) = found(bad)
    assert told.startswith("1_step.py:")
    assert f" upgrade() {SAFE_WAYS[kind]}\n" in told
    assert " Instead: " in told
    assert "# accepted: " in told
    assert found(fine) == []


def test_every_kind_has_a_test():
    tested = {param.values[0] for param in KINDS}
    assert tested == SAFE_WAYS.keys()
    assert len(tested) >= 14


@pytest.mark.parametrize(("kind", "bad", "fine"), KINDS)
def test_a_way_back_may_break_what_it_leads_away_from_and_block_nobody(found, kind, bad, fine):
    assert len(found("pass", bad)) == (kind not in BREAKING)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (BATCH, 8),
        ("for name in ('x', 'y'):\n    op.drop_column('users', name)", 9),
        ("change = op.drop_column\nchange('users', 'x')", 9),
        ("table = 'users'\nop.execute(f'ALTER TABLE {table} DROP COLUMN x')", 9),
        ("drop('x')", 5),
        ("op.drop_column(\n    'users',\n    'x',\n)", 8),
        ("op.execute('''\n    -- old\n    alter  table users\n    drop column x\n''')", 8),
        ('op.execute(\'ALTER TABLE "users" DROP COLUMN "x"\')', 8),
    ],
)
def test_a_step_is_seen_however_it_is_written(found, step, line):
    told = found(step, head=f"{HEAD}def drop(name):\n    op.drop_column('users', name)\n\n")
    assert {each.partition(" ")[0] for each in told} == {f"1_step.py:{line}"}
    assert all(SAFE_WAYS["ban-drop-column"] in each for each in told)


@pytest.mark.parametrize(
    "step",
    [
        "op.create_index('ix', 'users', ['x'])",
        "op.add_column('users', sa.Column('x', sa.Text(), nullable=False))",
        "op.alter_column('users', 'x', nullable=False, type_=sa.Text())",
        "op.create_unique_constraint('uq', 'users', ['x'])",
        "op.create_foreign_key('fk', 'users', 'others', ['x'], ['id'])",
        "op.execute('UPDATE \"users\" SET x = 1')",
        BATCH,
        "op.drop_table('users')",
    ],
)
def test_a_table_that_the_step_makes_keeps_nobody_waiting(found, step):
    assert found(step) != []
    assert found(NEW_TABLE + step) == []
    assert found(f"{NEW_TABLE.replace('users', 'others')}{step}") != []


@pytest.mark.parametrize(
    ("step", "is_accepted"),
    [
        ("op.drop_table('users')  # accepted: nobody reads it", True),
        ("# accepted: nobody reads it\nop.drop_table('users')", True),
        ("# accepted: nobody has read it\n# since release 12\nop.drop_table('users')", True),
        ("op.drop_table(\n    'users',  # accepted: nobody reads it\n)", True),
        (f"# accepted: nobody reads it\n{BATCH}", True),
        (BATCH.replace("\n", "  # accepted: nobody reads it\n"), True),
        (BATCH.replace("\n", "\n    # accepted: nobody reads it\n"), False),
        (f"{BATCH}  # accepted: nobody reads it", False),
        ("drop()  # accepted: nobody reads it", True),
        ("# accepted: reads ten rows\nop.get_bind().execute(sa.text('SELECT 1')).all()", True),
        ("op.drop_table('users')", False),
        ("op.drop_table('users')  # accepted:", False),
        ("op.drop_table('users')  # accepted: !", False),
        ("op.drop_table('users')  # nobody reads it", False),
        ("op.execute('DROP TABLE users; -- accepted: nobody reads it')", False),
        ("op.execute('DROP TABLE users /* # accepted: nobody reads it */')", False),
        ("# accepted: nobody reads it\n\nop.drop_table('users')", False),
        ("# accepted: nobody reads it\nop.f('x')\nop.drop_table('users')", False),
        (
            "# accepted: nobody reads it\nif True:\n    op.drop_table('users')",
            False,
        ),
    ],
)
def test_a_step_is_accepted_for_a_reason_that_stands_on_it(found, step, is_accepted):
    told = found(step, head=f"{HEAD}def drop():\n    op.drop_table('users')\n\n")
    assert (told == []) is is_accepted
