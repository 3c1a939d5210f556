"""The texts of refusals: what is wrong, and what to do instead."""

BUSY = (
    "one task at a time may use a session; another task opens its own:"
    " async with open_session() as session"
)
BOUNDARY_COMMITS = (
    "the request boundary commits, before the answer is sent: flush() here, begin_nested() for a"
    " part that may be undone, open_session() for what has to stay though the request fails"
)
BROKEN = "a statement of this session was cut off, so its state is unknown: let the request fail"
CONTROLLED = (
    "a statement must not begin or end the transaction: begin_nested() and rollback() do, and"
    " open_session() has a transaction of its own"
)
LET_LIE = (
    "the transaction lay idle for longer than twice the statement timeout, and the server has ended"
    " it: do slow work before the first statement, or after the commit"
)
NEEDS_SESSION = (
    "a pooler gives each transaction another session, so this statement would change somebody"
    " else's: use SET LOCAL, pg_advisory_xact_lock or set_config(..., true) in a transaction; what"
    " needs a session, such as LISTEN, needs a connection past the pooler"
)
ENDED_BY_STATEMENT = "a COMMIT or ROLLBACK that was sent as a statement has ended the transaction"
ENDED = (
    "this session has ended with its unit of work; what runs after the answer, or beside the"
    " handler, opens its own: async with open_session() as session"
)
ISOLATION_IS_SET_BEFORE = (
    "the transaction has begun: Router(isolation=...) or open_session(isolation=...) sets its level"
)
NO_ENGINE = "this engine has no connections of its own: use open_session() or open_connection()"
SNAPSHOT_ENDED = (
    "this snapshot has ended, with its block or because nobody has read for too long:"
    " open another one: async with reader.snapshot()"
)

# Pages.
NOT_A_SELECT = "only a select(...) comes in pages: of a union, select(union.subquery())"
NOT_PLAIN = (
    "only columns, FROM and WHERE come in pages: put a statement with an order, a limit, DISTINCT,"
    " GROUP BY or the like into a subquery that selects a primary key: select(inner.subquery())"
)
WINDOWED = (
    "a window function would see one page only: put its statement into a subquery that selects a"
    " primary key: select(inner.subquery())"
)
NO_COLUMN = "the order names a column that the statement does not select"
NO_FILTER = "{model} has a field for {name}, a column that the statement does not select"
DEFERRED = "the order names a deferred column, which the statement does not select: undefer() it"
TWO_COLUMNS = "the statement selects two columns that are called {name}: label one of them"
NO_TYPE = (
    "the type of {column} is unknown, so it gives no order: name it, func.f(..., type_=String)"
)
NO_KEY = (
    "{table} has no primary key, which would tell its rows apart: let the subquery select the"
    " primary key of a table"
)
ONE_PLACE = (
    "two rows of this statement have one key, so that a page cannot begin between them: a subquery,"
    " or a function that returns many rows, needs a primary key that is unique"
)
LONG_KEY = "the key of a row is too long for a cursor: page by a shorter key"
