"""A path with control characters is nobody's, whatever would become of it."""

from urllib.parse import quote

import pytest

CONTROLS = [chr(number) for number in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_path_with_a_control_character_is_refused(alice, log, method):
    for character in CONTROLS:
        for path in (f"/peelings/{quote(character)}1", f"/nothing{quote(character)}"):
            answer = await alice.request(method, path)
            assert answer.status_code == 400, path
            assert answer.json()["message"] == "the path should have no control characters"
    assert log.lines("ERROR", "WARNING") == []


async def test_a_websockets_path_with_a_control_character_is_refused(alice):
    for character in CONTROLS:
        async with alice.socket(f"/nothing{quote(character)}") as socket:
            assert (socket.status, socket.json()["error"]) == (400, "bad_request")


@pytest.mark.parametrize("text", ["\u00e9", "\u00a0", "\u202e", "\U0001f955", "%", " ", "\ufffd"])
async def test_another_character_is_the_operations_own_matter(alice, text):
    assert (await alice.get(f"/nothing{quote(text)}")).status_code == 404
