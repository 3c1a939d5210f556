import base64
import json

import jwt
import pytest

SECRET = "test" * 8
NOW = 1_790_000_000
CLAIMS = {"iss": "julienne", "aud": "julienne", "sub": "1", "iat": NOW, "exp": 4 * NOW}


def encode(algorithm="HS256", secret=SECRET, headers=None, **changes):
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, secret, algorithm, headers)


def segments(*parts):
    raw = [json.dumps(part).encode() if isinstance(part, dict) else part for part in parts]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in raw)


async def test_the_right_password_gives_a_token_that_is_accepted(client, alice, password):
    form = {"username": "ALICE@example.com", "password": password}
    token = (await client.post("/auth/token", data=form)).json()
    assert (token["token_type"], token["expires_in"]) == ("bearer", 900)
    bearer = {"Authorization": f"Bearer {token['access_token']}"}
    assert (await client.get("/users/me", headers=bearer)).json()["id"] == alice.user_id


async def test_an_unknown_address_and_a_wrong_password_get_the_same_answer(client, alice, password):
    answers = []
    for form in (
        {"username": "nobody@example.com", "password": password},
        {"username": "alice@example.com", "password": "wrong password"},
        {"username": "alice@example.com", "password": "x" * 129},
    ):
        answer = await client.post("/auth/token", data=form)
        assert answer.headers["www-authenticate"] == "Bearer"
        answers.append((answer.status_code, answer.json() | {"request_id": ""}))
    assert answers[0][0] == 401
    assert answers[0] == answers[1] == answers[2]


async def test_a_deactivated_account_is_out_at_once(client, admin, alice, password):
    await admin.patch(f"/users/{alice.user_id}", json={"is_active": False})
    assert (await alice.get("/users/me")).status_code == 401
    assert (await alice.post("/items", json={"title": "x"})).status_code == 401
    form = {"username": "alice@example.com", "password": password}
    assert (await client.post("/auth/token", data=form)).status_code == 401


async def test_a_good_token_of_our_own_making_is_accepted(client, alice):
    answer = await client.get("/users/me", headers={"Authorization": f"Bearer {encode()}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "\u00fc",
        "x" * 100_000,
        encode(algorithm="none", secret=None),
        encode(algorithm="HS512", secret=SECRET * 2),
        encode(secret="other" * 8),
        encode()[:-2] + "AA",
        encode(exp=NOW - 1),
        encode(exp=None),
        encode(exp="soon"),
        segments({"alg": "HS256"}, b'{"sub":"1","exp":1e400}', b"x"),
        encode(nbf=4 * NOW),
        encode(iat=None),
        encode(iat=4 * NOW),
        encode(aud="others"),
        encode(aud=None),
        encode(iss="others"),
        encode(iss=None),
        encode(sub=None),
        encode(sub="alice"),
        encode(sub="2"),
        encode(sub=str(2**70)),
        encode(sub="\u0661"),
        encode(headers={"crit": ["exp"]}),
        segments({"alg": "none", "jwk": {}, "kid": "../x"}, CLAIMS, b""),
        segments(b"[" * 60_000, CLAIMS, b"x"),
        segments({"alg": "HS256"}, b"\xff", b"x"),
    ],
)
async def test_a_token_that_is_not_ours_is_refused(client, alice, token):
    headers = [("Authorization", f"Bearer {token}".encode())]
    answer = await client.get("/users/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "unauthorized"


async def test_another_scheme_is_refused(client, alice):
    for value in (f"Basic {encode()}", encode(), "Bearer"):
        answer = await client.get("/users/me", headers={"Authorization": value})
        assert answer.status_code == 401
