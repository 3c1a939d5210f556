"""What clients may rely on, written down in `openapi.json`."""

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
# The service's document is made in a process of its own, of the tree in which it runs.
DOCUMENT = """
import json, service
from kernel import Settings
app = service.create_app(Settings(_env_file=None))
print(json.dumps(app.openapi(), indent=1, ensure_ascii=False))
"""
Schema = dict[str, Any]


def write_contract(root: Path) -> None:
    """Write down what the tree's service offers now, with a history that it can start on."""
    heads = find_heads(root / "migrations/versions")
    if len(heads) > 1:
        raise Refusal(str(BrokenHistory.of_heads(heads)))
    env = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
    command = [sys.executable, "-c", DOCUMENT]
    made = subprocess.run(command, cwd=root, env=env, check=False, capture_output=True)  # noqa: S603
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Refusal(f"the service cannot be imported: {' '.join(reason)}")
    (root / FILE).write_bytes(made.stdout)


def read_contract(root: Path) -> Schema:
    """What was written down, or nothing, as when git has left its marks of a conflict in it."""
    try:
        document: Schema = json.loads((root / FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"paths": {}}
    return document
