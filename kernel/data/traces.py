"""What a statement may leave on its session beyond its transaction, judged by its text.

Only what is known to leave nothing passes. After anything else, the connection is reset before its
next use, or closed.
"""

import re
from enum import Enum
from functools import lru_cache

# DISCARD ALL spelt out (PostgreSQL manual), without DEALLOCATE ALL: asyncpg keeps its prepared
# statements.
RESET = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; "
    "SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
TRANSIENT = re.compile(
    r"\s*(select|insert|update|delete|with|values|merge|rollback\s+to|savepoint"
    r"|release|lock|show|set\s+(local|constraints|transaction))\b",
    re.IGNORECASE,
)
# A second statement, a comment or a quoted body could hide anything; SELECT INTO makes a table.
OPAQUE = re.compile(r";\s*\S|--|/\*|\$\$|(?<!insert\s)(?<!merge\s)\binto\b", re.IGNORECASE)
# Literals, function bodies and comments, which are removed before the statement is judged.
NOT_CODE = re.compile(
    r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|begin\s+atomic\b.*",
    re.DOTALL | re.IGNORECASE,
)
# Statements that begin or end a transaction, anywhere in a text of several.
CONTROL = re.compile(
    r"(?:^|;)\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction"
    r"|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE,
)
# No reset undoes these: asyncpg would miss its own prepared statements, or meet foreign ones.
LASTING = re.compile(r"(?:^|;)\s*(?:prepare|deallocate|discard|load)\b", re.IGNORECASE)
# Statements that need a session of their own, unlike SET LOCAL and the like.
OF_SESSIONS = re.compile(
    r"(?:^|;)\s*(?:set\s+(?!local\b|constraints\b|transaction\b)|listen\b|prepare\b|load\b|discard\b"
    r"|deallocate\b|declare\b.*\bwith\s+hold\b|create\s+(?:(?:global|local)\s+)?temp(?:orary)?\b)"
    r"|(?<!insert\s)\binto\s+temp(?:orary)?\s+\w|\bpg_(?:try_)?advisory_lock|\bset_config\b(?!\s*\([^()]*,\s*true\s*\))",
    re.IGNORECASE | re.DOTALL,
)
BEFORE_PARENTHESIS = re.compile(
    r'(?:\binto\s+(?:[\w.]|"[^"]*")+|([a-z_]\w*|"[^"]*"))\s*\(', re.IGNORECASE
)
KEYWORDS = """
    all and any array as between by case conflict distinct else except exists filter from grouping
    having ilike in intersect interval is lateral like limit not nothing offset on or order over
    partition recursive returning row select sets similar some then union using values when where
    within with
    bit bpchar char character decimal float numeric time timestamp varbit varchar varying
"""
FUNCTIONS = """
    abs age array_agg array_append array_length array_position array_remove array_to_string avg
    bool_and bool_or btrim cardinality cast ceil ceiling char_length coalesce concat concat_ws
    convert_from cosine_distance count cume_dist current_setting date date_bin date_part date_trunc
    decode dense_rank div encode every exp extract first_value floor format gen_random_uuid
    generate_series greatest initcap json_agg json_build_array json_build_object json_object_agg
    jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_object_agg jsonb_set lag last_value lead least left length ln log lower
    lpad ltrim make_date make_interval max md5 min mod mode now nth_value ntile nullif octet_length
    overlay percent_rank percentile_cont percentile_disc pg_advisory_xact_lock
    pg_advisory_xact_lock_shared pg_export_snapshot pg_is_in_recovery pg_sleep
    pg_try_advisory_xact_lock phraseto_tsquery plainto_tsquery position power random rank
    regexp_matches regexp_replace repeat replace reverse right round row_number row_to_json rpad
    rtrim sha256 sign similarity split_part sqrt starts_with statement_timestamp stddev string_agg
    string_to_array strpos substr substring sum to_char to_date to_json to_jsonb to_number
    to_timestamp to_tsquery to_tsvector translate trim trunc ts_headline ts_rank unnest upper
    variance websearch_to_tsquery width_bucket word_similarity
"""
HARMLESS = frozenset(KEYWORDS.split()) | frozenset(FUNCTIONS.split())


class Trace(Enum):
    """What a statement may leave: nothing (NONE), what a reset undoes (SESSION), or what no reset
    undoes (LASTING). CONTROL begins or ends a transaction."""

    NONE = "none"
    SESSION = "session"
    LASTING = "lasting"
    CONTROL = "control"


@lru_cache(maxsize=4096)
def needs_session(sql: str) -> bool:
    """Whether the statement is known to change or use its session, so it must not be shared."""
    return OF_SESSIONS.search(NOT_CODE.sub(" ", sql)) is not None


@lru_cache(maxsize=4096)
def trace_of(sql: str) -> Trace:
    """What the statement may leave on its connection.

    Functions that a trigger or a view calls are not seen: their locks and settings must end with
    the transaction (`pg_advisory_xact_lock`, `set_config(…, true)`).
    """
    bare = NOT_CODE.sub(" ", sql)
    if CONTROL.search(bare):
        return Trace.CONTROL
    if LASTING.search(bare):
        return Trace.LASTING
    if not TRANSIENT.match(sql) or OPAQUE.search(sql):
        return Trace.SESSION
    names = (name.lower() for name in BEFORE_PARENTHESIS.findall(sql) if name)
    return Trace.NONE if HARMLESS.issuperset(names) else Trace.SESSION
