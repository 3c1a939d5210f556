"""The API's contract: `openapi.json` is what clients rely on."""

import json

from kernel.dev.scaffold.breaks import broken
from kernel.dev.scaffold.contract import ACCEPT, read_contract
from kernel.settings import ROOT
from kernel.testing.walking import Walk


def test_no_client_is_broken(walk: Walk) -> None:
    breaks = broken(read_contract(ROOT), walk.app.openapi())
    assert breaks == [], "\n".join(["clients would break; to accept that: " + ACCEPT, *breaks])


def test_the_contract_is_written_down(walk: Walk) -> None:
    # Through JSON, where tuples are lists.
    same = read_contract(ROOT) == json.loads(json.dumps(walk.app.openapi()))
    assert same, f"openapi.json is not what the service offers now: {ACCEPT}"
