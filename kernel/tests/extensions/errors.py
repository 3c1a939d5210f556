"""What a team changes about its failures: further ones, and another form for them."""

from kernel.tests.extensions.copies import Copy

PAYMENTS = {
    "models.py": """\
from sqlmodel import Field

from kernel import Dto, Input


class PaymentInput(Input):
    amount: int = Field(ge=1, le=1000)


class PaymentPublic(Dto):
    amount: int
""",
    "handlers.py": """\
from features.payments.models import PaymentInput, PaymentPublic
from kernel import ServiceError

BALANCE = 100


class PaymentRequired(ServiceError):
    status = 402


async def pay(data: PaymentInput) -> PaymentPublic:
    if data.amount > BALANCE:
        raise PaymentRequired("there is not enough money", balance=BALANCE)
    return PaymentPublic(amount=data.amount)
""",
    "router.py": """\
from features.payments import handlers
from features.payments.models import PaymentInput, PaymentPublic
from kernel import CurrentUser, Router, error_response

router = Router(prefix="/payments", tags=["payments"])


@router.post("", responses={402: error_response(402)})
async def pay(data: PaymentInput, _: CurrentUser) -> PaymentPublic:
    return await handlers.pay(data)
""",
    "test_payments.py": """\
RULES = {"pay": "signed_in"}
SAMPLES = {"pay": lambda *_: {"amount": 7}}


async def test_who_has_too_little_money_gets_a_402(alice):
    assert (await alice.post("/payments", json={"amount": 100})).status_code == 200
    answer = await alice.post("/payments", json={"amount": 101})
    assert answer.status_code == 402
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "balance": 100,
        "error": "payment_required",
        "message": "there is not enough money",
        "status": 402,
        "title": "Payment Required",
        "detail": "there is not enough money",
        "request_id": answer.headers["x-request-id"],
    }


async def test_the_document_tells_of_the_402(client):
    document = (await client.get("/openapi.json")).json()
    told = document["paths"]["/payments"]["post"]["responses"]["402"]
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    assert told == {"description": "Payment Required", "content": content}
""",
}


def add_error(copy: Copy) -> None:
    """Answer with a status that the kernel has no error for."""
    copy.add_slice("payments", PAYMENTS)


LEGACY = {
    "models.py": """\
from sqlmodel import Field

from kernel import Dto, Input


class OrderInput(Input):
    number: int = Field(ge=1, le=1000)


class OrderPublic(Dto):
    number: int


class LegacyError(Dto):
    code: int
    text: str
    trace: str
""",
    "router.py": """\
from typing import Annotated, Any

from fastapi import Path

from features.legacy.models import LegacyError, OrderInput, OrderPublic
from kernel import Conflict, CurrentUser, ErrorForm, Failure, NotFound, Router, error_response


def _tell(failure: Failure) -> dict[str, Any]:
    return {"code": failure.status, "text": failure.message, "trace": failure.request_id}


router = Router(prefix="/legacy", tags=["legacy"], errors=ErrorForm(LegacyError, _tell))
Number = Annotated[int, Path(ge=1, le=1000)]


@router.post("/orders", responses={429: error_response(429)})
async def place_order(data: OrderInput, _: CurrentUser) -> OrderPublic:
    if data.number == 409:
        raise Conflict("it is placed already")
    if data.number == 500:
        raise RuntimeError("on purpose")
    return OrderPublic(number=data.number)


@router.get("/orders/{number}")
async def get_order(number: Number, _: CurrentUser) -> OrderPublic:
    if number == 404:
        raise NotFound("order", number)
    return OrderPublic(number=number)
""",
    "test_legacy.py": """\
import pytest

RULES = {"place_order": "signed_in", "get_order": "signed_in"}
SAMPLES = {"place_order": lambda *_: {"number": 7}}
KEYS = {"number": lambda *_: 7}


@pytest.mark.parametrize("number", [409, 500, 0])
async def test_a_failed_write_is_told_in_the_form_of_the_router(alice, number):
    answer = await alice.post("/legacy/orders", json={"number": number})
    assert answer.status_code == (number or 422)
    tells(answer)


@pytest.mark.parametrize("number", [404, 0])
async def test_a_failed_read_is_told_in_the_form_of_the_router(alice, number):
    answer = await alice.get(f"/legacy/orders/{number}")
    assert answer.status_code == (number or 422)
    tells(answer)


async def test_who_is_nobody_is_told_in_the_form_of_the_router(client):
    for answer in (
        await client.get("/legacy/orders/7"),
        await client.post("/legacy/orders", json={"number": 7}),
    ):
        assert answer.status_code == 401
        tells(answer)


async def test_what_is_refused_unread_is_told_in_the_form_of_the_router(alice):
    answer = await alice.post("/legacy/orders", content=b"x" * 2**21)
    assert answer.status_code == 413
    tells(answer)


def tells(answer):
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    assert error.pop("text")
    assert error == {"code": answer.status_code, "trace": answer.headers["x-request-id"]}


async def test_what_comes_to_no_operation_is_told_in_the_form_of_the_router(alice):
    answers = [await alice.get("/legacy/orders/x"), await alice.put("/legacy/orders")]
    assert [answer.status_code for answer in answers] == [404, 405]
    for answer in answers:
        tells(answer)


async def test_other_routers_keep_their_form(client):
    for path in ("/users/me", "/legacy", "/nothing"):
        answer = await client.get(path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


async def test_the_document_tells_of_the_form(client):
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/legacy/orders"]["post"]
    failures = {name: each for name, each in operation["responses"].items() if name[0] in "45d"}
    schema = {"$ref": "#/components/schemas/LegacyError"}
    assert failures.keys() >= {"401", "409", "422", "429", "default"}
    assert [each["content"] for each in failures.values()] == [
        {"application/json": {"schema": schema}}
    ] * len(failures)
    fields = document["components"]["schemas"]["LegacyError"]["properties"]
    assert fields.keys() == {"code", "text", "trace"}
""",
}


def add_error_form(copy: Copy) -> None:
    """Tell the failures of one router in another form, for clients that know no other."""
    copy.add_slice("legacy", LEGACY)
