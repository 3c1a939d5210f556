"""The API's contract with its clients: `openapi.json`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kernel.data.schema import BrokenHistory, find_heads
from kernel.dev.scaffold.survey import Refusal

FILE = "openapi.json"
ACCEPT = "uv run python -m features contract"
# Run in a process of its own, so that it imports the service of the tree where it runs.
DOCUMENT = """
import json, service
from kernel import Settings
app = service.create_app(Settings(_env_file=None))
print(json.dumps(app.openapi(), indent=1, ensure_ascii=False))
"""
Schema = dict[str, Any]


def write_contract(root: Path) -> None:
    """Write the OpenAPI document of the tree's service.

    Raises:
        Refusal: the migrations have several heads, or the service cannot be imported.
    """
    heads = find_heads(root / "migrations/versions")
    if len(heads) > 1:
        raise Refusal(str(BrokenHistory.of_heads(heads)))
    env = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
    command = [sys.executable, "-c", DOCUMENT]
    process = subprocess.run(command, cwd=root, env=env, check=False, capture_output=True)  # noqa: S603
    if process.returncode:
        reason = process.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Refusal(f"the service cannot be imported: {' '.join(reason)}")
    (root / FILE).write_bytes(process.stdout)


def read_contract(root: Path) -> Schema:
    """The document in the file; one without paths if there is none, or if it is not JSON, as with
    conflict markers of git's."""
    try:
        document: Schema = json.loads((root / FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"paths": {}}
    return document
