"""The kinds of unsafe SQL that squawk does not know, and tables of the migration's own, for which
no SQL is unsafe."""

import re

from kernel.testing.safe_ways import SAFE_WAYS

# squawk reports a missing NOT VALID beside each of these, which say more.
CONSTRAINTS = {
    *("adding-foreign-key-constraint", "disallowed-unique-constraint", "exclusion"),
    "adding-serial-primary-key-field",
}

NAME = r'((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)'
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
MADE = re.compile(
    rf"CREATE (?:(?:UNLOGGED|TEMP|TEMPORARY) )?TABLE (?:IF NOT EXISTS )?{NAME}", re.IGNORECASE
)
ABOUT = re.compile(
    r"(?:ALTER TABLE|DROP TABLE|UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?|CREATE .*?INDEX.*? ON)"
    rf"(?: IF EXISTS)?(?: ONLY)? {NAME}",
    re.IGNORECASE,
)
# squawk takes the minus of a default for a function call.
NEGATIVE = re.compile(r"\bDEFAULT \(?- ?\d+(\.\d+)?\)?([\s,;]|$)", re.IGNORECASE)
# A condition that few rows meet compares with values. All rows meet `x IS NULL` when x is new.
FEW = r"\bWHERE\b.*((?<![<!])(<=|>=|[=<>]) ?['\d]|\bIN ?\( ?['\d]|\bBETWEEN ['\d]|\bLIMIT\b)"
COLUMN = rf"ALTER TABLE\b.*\bADD (COLUMN )?(IF NOT EXISTS )?(?!CONSTRAINT\b|CHECK\b){NAME}"
PATTERNS = {
    "all-rows": rf"(WITH\b.*\b)?(UPDATE|DELETE FROM)\b(?!.*{FEW})"
    r"|DO\b(?=.*\b(UPDATE|DELETE)\b)(?!.*\bLIMIT\b)",
    "truncate": r"TRUNCATE\b",
    "table-lock": r"(LOCK|CLUSTER|VACUUM \(?FULL|REFRESH MATERIALIZED VIEW (?!CONCURRENTLY))\b",
    "adding-field-with-default": rf"{COLUMN} (SMALL|BIG)?SERIAL\b",
    "constraint-missing-not-valid": rf"{COLUMN} .*\bCHECK\b",
    "exclusion": r"ALTER TABLE\b.*\bEXCLUDE\b",
    "hidden": r"DO\b.*\b(EXECUTE|ALTER|CREATE|DROP|TRUNCATE|LOCK)\b",
}
MATCHERS = {rule: re.compile(pattern, re.IGNORECASE) for rule, pattern in PATTERNS.items()}


def tables_made(sql: str) -> set[str]:
    """The table that a statement makes, if it makes one."""
    made = MADE.match(_plain(sql))
    return {made[1].replace('"', "")} if made else set()


def unsafe(sql: str, complaints: set[str], made: set[str]) -> list[str]:
    """The unsafe kinds of a statement, in the order of SAFE_WAYS.

    `complaints` are squawk's rules about it, `made` the tables that this migration has created,
    which no other session uses yet."""
    text = _plain(sql)
    about = ABOUT.match(text)
    if about and about[1].replace('"', "") in made:
        return []
    broken = complaints | {rule for rule, matcher in MATCHERS.items() if matcher.match(text)}
    if broken & CONSTRAINTS:
        broken.discard("constraint-missing-not-valid")
    if NEGATIVE.search(text):
        broken.discard("adding-field-with-default")
    return [rule for rule in SAFE_WAYS if rule in broken]


def _plain(sql: str) -> str:
    """Without comments, and with single blanks."""
    return " ".join(COMMENT.sub(" ", sql).split())
