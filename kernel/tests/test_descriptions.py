"""What readers of the docs page find."""

import re
import sys
from itertools import chain

import pytest
from pydantic import TypeAdapter
from sqlmodel import Field

from kernel import Amount, CurrentUser, Dto, Input, Line, Password, Router, Session, Text, Whole
from kernel.http.descriptions import FREE_TEXT_PATTERNS, add_examples
from kernel.http.openapi import GENERAL
from kernel.http.problems import PROBLEM_DETAILS, Failure

router = Router(prefix="/peeled_jars", tags=["peeled_jars"])
PASSWORD = TypeAdapter(Password)


class Jar(Input):
    name: Line = Field(max_length=3)
    full_label: Text | None = None
    code: Text = Field(min_length=9)
    country: str = Field(regex="^[A-Z]{2}$")
    size: Line = Field(default="small", max_length=9)
    weight: Whole
    degrees: Whole = Field(lt=0)
    price: Amount = Field(max_digits=12, decimal_places=2)
    deposit: Amount | None = None
    labels: list[Line] = Field(default=[])
    marks: set[Text] | None = None
    pairs: list[Line] = Field(min_length=2)
    lid: Password | None = None


class Label(Dto):
    first_word: Line = Field(max_length=40)


@router.post("", responses={413: {"description": "Our own."}})
async def fill_jar(data: Jar, _: CurrentUser, session: Session) -> Line:
    return data.name


@pytest.fixture
async def document(mount):
    async with mount(router) as client:
        yield client.app.openapi()


def test_the_words_that_a_body_takes_have_an_example_that_it_takes(document):
    """Or the docs page would make up letters and signs that fit the pattern."""
    shown = [
        (each["examples"][0], choice)
        for schema in document["components"]["schemas"].values()
        for each in schema.get("properties", {}).values()
        for choice in each.get("anyOf", [each])
        if "examples" in each and "pattern" in choice
    ]
    for example, choice in shown:
        assert re.search(choice["pattern"], example)
        assert choice.get("minLength", 0) <= len(example) <= choice.get("maxLength", 80)


def test_no_field_of_free_text_is_left_to_the_docs_page(document):
    """A password is one, too: the page prefers a pattern to a format."""
    fields = {
        f"{title}.{name}": field
        for title, schema in document["components"]["schemas"].items()
        for name, field in schema.get("properties", {}).items()
    }
    free = {
        name: field
        for name, field in fields.items()
        for part in (field, *field.get("anyOf", ()), field.get("items", {}))
        if part.get("pattern") in FREE_TEXT_PATTERNS
    }
    assert {"Jar.labels", "Jar.code", "Jar.lid"} <= free.keys()
    shown = {name for name, field in free.items() if field.get("default") or "examples" in field}
    others = {name for name, field in free.items() if field.get("format", "password") != "password"}
    assert free.keys() - shown - others == set()


def test_the_password_that_the_docs_page_shows_is_one_that_is_taken():
    (example,) = PASSWORD.json_schema()["examples"]
    assert PASSWORD.validate_python(example).get_secret_value() == example


def test_an_example_fits_its_field_and_is_not_made_up_for_a_pattern_of_ones_own():
    schemas = {"Jar": Jar.model_json_schema()}
    add_examples(schemas)
    fields = schemas["Jar"]["properties"]
    shown = {name: each["examples"] for name, each in fields.items() if "examples" in each}
    assert shown == {
        "name": ["Nam"],
        "full_label": ["Full label"],
        "weight": [1],
        "degrees": [-1],
        "price": ["12.50"],
        "deposit": ["12.50"],
        "code": ["xxxxxxxxx"],
        "labels": [["Labels"]],
        "marks": [["Marks"]],
        "pairs": [["Pairs", "Pairs"]],
        "lid": ["a long passphrase"],
    }
    examples = {name: each[0] for name, each in shown.items()}
    assert Jar.model_validate({**examples, "country": "DE"}).code == "xxxxxxxxx"


def test_the_words_of_an_answer_have_an_example_too():
    schemas = {"Label": Label.model_json_schema(mode="serialization")}
    add_examples(schemas)
    assert schemas["Label"]["properties"]["first_word"]["examples"] == ["First word"]


def test_an_error_is_shown_as_the_service_sends_it(document):
    problem = document["components"]["schemas"]["Problem"]
    [example] = problem["examples"]
    failure = Failure(404, example["message"], example["request_id"], {})
    assert example == PROBLEM_DETAILS.make(failure)
    assert example.keys() == {*problem["required"]}


def test_a_tag_is_described_by_the_docstring_of_its_module(document):
    described = {each["name"]: each["description"] for each in document["tags"]}
    assert described["peeled_jars"] == sys.modules[__name__].__doc__
    operations = chain.from_iterable(each.values() for each in document["paths"].values())
    assert list(described) == list(dict.fromkeys(each["tags"][0] for each in operations))


def test_what_any_operation_may_answer_is_told_once(document):
    responses = document["paths"]["/peeled_jars"]["post"]["responses"]
    assert responses["413"] == {"description": "Our own."}
    assert {"401", "409", "422", "default"} <= responses.keys()
    assert {int(status) for status in responses if status.isdecimal()} & GENERAL == {413}
