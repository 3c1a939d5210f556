"""The kinds of unsafe SQL that squawk does not know, and the tables for which none is unsafe."""

import re

from kernel.testing.safe_ways import SAFE_WAYS

# Each of these says more than a constraint's missing NOT VALID, which squawk adds.
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
# squawk takes a minus for a function.
NEGATIVE = re.compile(r"\bDEFAULT \(?- ?\d+(\.\d+)?\)?([\s,;]|$)", re.IGNORECASE)
# A condition that few rows meet names values. `x IS NULL` is met by all rows when x is new.
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
    """The kinds of a statement, given squawk's rules, and the tables that nobody knows yet."""
    text = _plain(sql)
    about = ABOUT.match(text)
    if about and about[1].replace('"', "") in made:
        return []
    found = complaints | {rule for rule, matcher in MATCHERS.items() if matcher.match(text)}
    if found & CONSTRAINTS:
        found.discard("constraint-missing-not-valid")
    if NEGATIVE.search(text):
        found.discard("adding-field-with-default")
    return [rule for rule in SAFE_WAYS if rule in found]


def _plain(sql: str) -> str:
    """Without comments, and with single blanks."""
    return " ".join(COMMENT.sub(" ", sql).split())
