"""What several slices of a team share, in `features/shared/`."""

from kernel.tests.extensions.copies import Copy

MONEY = '''\
"""Money, as the team's slices know it."""

from decimal import Decimal

from sqlmodel import SQLModel

from kernel import Amount, ServiceError

LIMIT = Decimal(1000)


class Priced(SQLModel):
    """The columns of what has a price."""

    price: Amount


class OverLimit(ServiceError):
    status = 422


def check_limit(price: Decimal) -> None:
    """See whether somebody may ask for so much.

    Raises:
        OverLimit: nobody may.
    """
    if price > LIMIT:
        raise OverLimit("this is too expensive", limit=str(LIMIT))
'''
SLICE = {
    "models.py": """\
from features.shared.money import Priced
from kernel import Input, Public, Table


class Quote(Priced, Table, table=True):
    __tablename__ = "quotes"


class QuoteCreate(Priced, Input):
    pass


class QuotePublic(Priced, Public):
    pass
""",
    "router.py": """\
from features.quotes.models import Quote, QuoteCreate, QuotePublic
from features.shared.money import check_limit
from kernel import CurrentUser, Router, Session

router = Router(prefix="/quotes", tags=["quotes"])


@router.post("", status_code=201)
async def create_quote(data: QuoteCreate, _: CurrentUser, session: Session) -> QuotePublic:
    check_limit(data.price)
    return await session.insert(Quote, QuotePublic, **data.model_dump())
""",
    "test_quotes.py": """\
RULES = {"create_quote": "signed_in"}
SAMPLES = {"create_quote": lambda *_: {"price": "12.50"}}


async def test_a_price_has_its_limit(alice):
    answer = await alice.post("/quotes", json={"price": "12.50"})
    assert (answer.status_code, answer.json()["price"]) == (201, "12.50")
    answer = await alice.post("/quotes", json={"price": "1000.01"})
    assert (answer.status_code, answer.json()["limit"]) == (422, "1000")
""",
}
TABLE = """\
    op.create_table(
        "quotes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quotes")),
    )
    op.execute(
        "CREATE TRIGGER count_version BEFORE UPDATE ON quotes"
        " FOR EACH ROW EXECUTE FUNCTION count_version()"
    )
"""


def called(text: str, name: str) -> str:
    """The text about quotes, about something else."""
    return text.replace("quote", name).replace("Quote", name.title())


def share(copy: Copy) -> None:
    """Let two slices have a mix-in, an error and a check in common."""
    copy.write("features/shared/__init__.py", "")
    copy.write("features/shared/money.py", MONEY)
    for one in ("quote", "invoice"):
        files = {called(file, one): called(text, one) for file, text in SLICE.items()}
        copy.add_migration(f"{one}s", called(TABLE, one), f'    op.drop_table("{one}s")\n')
        copy.add_slice(f"{one}s", files)
