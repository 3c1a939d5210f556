"""The audit of what the image installs, against a source of advisories of the tests' own."""

import json
import re
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from kernel.settings import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.house]
LOCK = (ROOT / "requirements-optional.lock").read_text()
PINS = re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", LOCK, re.MULTILINE)


@contextmanager
def advisories(*names):
    """A service as osv.dev's, which has one about each of these packages; its address, and which
    packages it was asked about."""
    asked = []

    class Source(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            packages = [(each["package"]["name"], each["version"]) for each in body["queries"]]
            asked.extend(packages)
            known = {"vulns": [{"id": "CANARY-1", "modified": "2026-01-01T00:00:00Z"}]}
            self.answer({"results": [known if name in names else {} for name, _ in packages]})

        def do_GET(self):
            times = {"modified": "2026-01-01T00:00:00Z"}
            self.answer({"id": "CANARY-1", "summary": "it sings", "affected": [], **times})

        def answer(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Source) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


def audit(source):
    command = ["bash", ".ci/audit", "--service-url", source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_known_advisory_fails_the_audit():
    with advisories("starlette") as (source, _):
        status, told = audit(source)
    assert status == 1
    assert "CANARY-1: it sings" in told


def test_every_package_of_the_image_is_asked_about():
    with advisories() as (source, asked):
        status, told = audit(source)
    assert (status, len(told.splitlines())) == (0, 1)
    assert sorted(asked) == sorted(PINS)


def test_an_audit_that_nobody_answers_says_so_in_one_line():
    status, told = audit("http://127.0.0.1:1/")
    assert (status, len(told.splitlines())) == (0, 1)
    assert told.startswith("not audited: ")
