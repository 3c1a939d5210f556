"""Unsafe kinds of migration steps: those that block a running service, and those that break it.

Most kinds are rules of squawk's, by its names (https://squawkhq.com/docs/rules); those that it does
not have are in `kernel.testing.patterns`. Its other rules are about style, or about a
`lock_timeout`, which `migrations/env.py` sets. Each text says what is wrong, and what to do.
"""

ACCEPT = "To do it all the same, say why on that statement: # accepted: no code reads it any more"
UNREADABLE = "unreadable"
BLOCK = "with op.get_context().autocommit_block():"

# These block readers or writers while PostgreSQL reads or writes the whole table, or fail on rows.
BLOCKING = {
    "require-concurrent-index-creation": (
        "builds an index while all writes to its table wait. Instead: create_index(…,"
        f" postgresql_concurrently=True) in `{BLOCK}`, behind a drop_index(…, if_exists=True)"
    ),
    "ban-concurrent-index-creation-in-transaction": (
        f"builds an index concurrently, which no transaction can. Instead: do it in `{BLOCK}`"
    ),
    "require-concurrent-reindex": (
        f"rebuilds an index while all writes wait. Instead: REINDEX … CONCURRENTLY in `{BLOCK}`"
    ),
    "adding-required-field": (
        "adds a NOT NULL column without a default, which fails as soon as the table has rows, and"
        " in the running version's inserts. Instead: give it a server_default, or add it with"
        " nullable=True, fill it, and make it NOT NULL in a later release"
    ),
    "adding-field-with-default": (
        "adds a column whose value differs by row, so the whole table is rewritten under a lock."
        " Instead: add it without one, set the default with alter_column(…, server_default=…) for"
        " new rows, and fill the old ones in batches. A constant or now() is quick"
    ),
    "changing-column-type": (
        "changes a column's type: the table is rewritten under a lock, and the running version"
        " reads another type than it expects. Instead: add a column of the new type, write both,"
        " fill it in batches, read it, and drop the old one a release later. (A longer varchar is"
        " fine: give existing_type=sa.String(…), so that it can be seen)"
    ),
    "adding-not-nullable-field": (
        "makes a column NOT NULL, and reads the whole table under a lock for it. Instead:"
        " create_check_constraint(…, 'x IS NOT NULL', postgresql_not_valid=True), then"
        f" op.execute('ALTER TABLE … VALIDATE CONSTRAINT …') in `{BLOCK}`, then this, which"
        " believes the constraint, then drop_constraint"
    ),
    "adding-serial-primary-key-field": (
        "makes a primary key, and its index, while everybody waits. Instead: build a unique index"
        f" concurrently in `{BLOCK}`, then op.execute('ALTER TABLE … ADD CONSTRAINT … PRIMARY KEY"
        " USING INDEX …')"
    ),
    "disallowed-unique-constraint": (
        "makes a unique constraint, and its index, while everybody waits. Instead: create_index(…,"
        f" unique=True, postgresql_concurrently=True) in `{BLOCK}`, then op.execute('ALTER TABLE …"
        " ADD CONSTRAINT … UNIQUE USING INDEX …')"
    ),
    "exclusion": (
        "makes an exclusion constraint while everybody waits, and PostgreSQL has no other way."
        " Instead: make a new table with it, write both, and fill it in batches"
    ),
    "adding-foreign-key-constraint": (
        "makes a foreign key while writes to both tables wait for all rows to be checked. Instead:"
        " create_foreign_key(…, postgresql_not_valid=True), of a column that add_column made"
        " without it, then op.execute('ALTER TABLE … VALIDATE CONSTRAINT …') in"
        f" `{BLOCK}`"
    ),
    "constraint-missing-not-valid": (
        "makes a constraint, or validates it in the transaction that makes it, while everybody"
        " waits for all rows to be checked. Instead: create_check_constraint(…,"
        " postgresql_not_valid=True), then op.execute('ALTER TABLE … VALIDATE CONSTRAINT …') in"
        f" `{BLOCK}`"
    ),
    "all-rows": (
        "changes all rows of a table in one statement, whose locks last to the end. Instead: in"
        f' batches, in `{BLOCK}`: op.execute("DO $$ BEGIN LOOP UPDATE … WHERE id IN (SELECT id …'
        ' LIMIT 1000); EXIT WHEN NOT FOUND; COMMIT; END LOOP; END $$")'
    ),
    "table-lock": (
        "locks a whole table for as long as it takes. Instead: what does not (REFRESH MATERIALIZED"
        " VIEW CONCURRENTLY, a plain VACUUM), or at a time without traffic"
    ),
    "syntax-error": "has SQL that squawk cannot parse. Instead: one valid statement of SQL",
    UNREADABLE: (
        "asks the database, or fails without one, so neither this test nor `alembic upgrade --sql`"
        " can read what follows. Instead: write op.execute(…) with the whole statement"
    ),
    "hidden": (
        "has SQL inside of SQL, which this test cannot check. Instead: op.execute(…) for each"
        " statement, with Python's loops and conditions around it"
    ),
}
# These break the version that still runs while the step is applied.
BREAKING = {
    "renaming-column": (
        "renames a column that the running version still names. Instead: add a column, write both,"
        " fill it in batches, read it, and drop the old one a release later; or keep the name and"
        " rename the attribute: Field(sa_column_kwargs={'name': …})"
    ),
    "renaming-table": (
        "renames a table that the running version still names. Instead: keep its __tablename__, or"
        " put a view in the place of the old name in the same step and accept it"
    ),
    "ban-drop-column": (
        "drops a column that the running version still reads. Instead: take it out of the model in"
        " one release (a NOT NULL one needs a server_default first), and drop it in the next"
    ),
    "ban-drop-table": (
        "drops a table that the running version may still read. Instead: take its code out in one"
        " release, and drop it in the next"
    ),
    "ban-drop-type": "drops a type. Instead: drop it a release after the last column of it",
    "ban-drop-schema": "drops a schema. Instead: drop it a release after the last use of it",
    "ban-drop-view": "drops a view. Instead: drop it a release after the last code that reads it",
    "ban-set-schema": "moves a table away from the running version. Instead: leave it there",
    "truncate": (
        "empties a table under the running version. Instead: delete in batches what nobody needs"
    ),
}
SAFE_WAYS = BLOCKING | BREAKING
