"""Repositories of this tree: upstream's, and a team's fork of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from kernel.tests.extensions import identity, service
from kernel.tests.extensions.copies import Copy, copy_to

NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
NO_CONFIGURATION = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
# Signs up, or in again, writes a plum, and tells the titles of all that are there.
SERVE = """
import asyncio, sys, httpx, service
from kernel import Settings

URL, TITLE = sys.argv[1:]
CAROL = {"email": "c@example.com", "full_name": "Carol", "password": "correct horse battery"}
FORM = {"username": CAROL["email"], "password": CAROL["password"]}

async def main():
    app = service.create_app(Settings(_env_file=None, database_url=URL, jwt_secret="drill" * 8))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://drill") as client,
    ):
        await client.post("/users", json=CAROL)
        token = (await client.post("/auth/token", data=FORM)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        for answer in (
            await client.get("/readyz"),
            await client.post("/plums", json={"title": TITLE}),
        ):
            assert answer.is_success, answer.text
        print(*[plum["title"] for plum in (await client.get("/plums")).json()["items"]])

asyncio.run(main())
"""


class Repository(Copy):
    """A git repository of the tree, and what its owners do with it."""

    def git(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            ["git", *NOBODY, *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **NO_CONFIGURATION},
        )
        assert done.returncode == status, f"git {words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def clone(self, folder: Path) -> "Repository":
        """A clone, whose `upstream` this one is."""
        self.git("clone", "--quiet", "--origin", "upstream", ".", str(folder))
        return Repository(folder)

    def conflicts(self) -> list[str]:
        return self.git("diff", "--name-only", "--diff-filter=U").split()

    def add_feature(self, name: str, *fields: str) -> None:
        self.works("features", "new", name, *fields)
        self.tests.append(f"features/{name}/test_{name}.py")

    def alembic(self, url: str, *words: str) -> None:
        done = self.run("alembic", *words, APP_DATABASE_URL=url)
        assert done.status == 0, f"alembic {words}\n{done.output}{done.errors}"

    def revise(self, url: str, slug: str) -> Path:
        """Write the revision that the models need, and apply it."""
        self.alembic(url, "upgrade", "head")
        self.alembic(url, "revision", "--autogenerate", "-m", slug)
        self.alembic(url, "upgrade", "head")
        (path,) = self.revisions().glob(f"*_{slug}.py")
        return path

    def revisions(self) -> Path:
        return self.root / "migrations/versions"

    def serve(self, url: str, title: str) -> list[str]:
        """Serve this database for a moment, and write a plum: the titles of all that are there."""
        done = subprocess.run(
            [sys.executable, "-c", SERVE, url, title],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.split()


def make_upstream(folder: Path) -> Repository:
    """A repository whose one commit is what git has here, or would be given."""
    upstream = Repository(copy_to(folder).root)
    upstream.git("init", "--quiet", "--initial-branch=main")
    upstream.commit("upstream")
    return upstream


# The fork.


def settle(fork: Repository, url: str) -> None:
    """Make the fork its team's own, and deploy it to a database."""
    service.rename(fork)
    service.add_cors(fork)
    service.write_readme(fork)
    service.add_settings(fork)
    fork.edit("CHANGELOG.md", "# Changelog\n", "# Changelog\n\n## Orchard Desk 1\n\n- Plums.\n")
    fork.edit("pyproject.toml", 'name = "julienne"\nversion = "0.1.0"', TEAMS_NAME)
    fork.edit("pyproject.toml", '    "lazy-loader>', '    "idna>=3",\n    "lazy-loader>')
    fork.commit("Orchard Desk")
    fork.add_feature("plums", "title:str", "weight:decimal?", "owner")
    fork.works("features", "remove", "items")
    fork.add_feature("crates", "label:str", "ref:plums?")
    fork.commit("features: plums and crates instead of items")
    fork.edit("features/users/models.py", '"member", "admin"', '"member", "accountant", "admin"')
    fork.add_slice("ledger", identity.LEDGER)
    fork.revise(url, "accountants")
    fork.works("features", "contract")
    fork.commit("users: accountants keep the ledger")


TEAMS_NAME = 'name = "orchard-desk"\nversion = "1.0.0"'


# What upstream does in the meantime.

SETTINGS = '''\
from kernel import SliceSettings


class ItemSettings(SliceSettings, env_prefix="ITEMS_"):
    """How many items an owner may have."""

    per_owner: int = 1000
'''


def release(upstream: Repository, url: str) -> None:
    """A later version: another kernel, a feature more, and a revision for two tables."""
    kept, items = "kernel/data/idempotency_keys.py", "features/items/models.py"
    edit_kernel(upstream, kept, STATUS, f"{METHOD}{STATUS}")
    edit_kernel(upstream, "kernel/__init__.py", '__version__ = "', '__version__ = "1')
    upstream.edit(items, DESCRIPTION, f"{DESCRIPTION}{NOTE}")
    upstream.edit("features/items/test_items.py", LEEK, f"{LEEK}{NULL}")
    upstream.write("features/items/settings.py", SETTINGS)
    identity.add_viewer(upstream)
    upstream.edit("README.md", "# Julienne\n", "# Julienne\n\nNow with greetings.\n")
    upstream.edit("CHANGELOG.md", "# Changelog\n", "# Changelog\n\n## 0.2.0\n\n- Greetings.\n")
    upstream.edit("pyproject.toml", '    "argon2', '    "anyio>=4",\n    "argon2')
    upstream.revise(url, "notes")
    upstream.works("features", "contract")
    upstream.commit("0.2.0")


STATUS = "    status: int | None = None\n"
METHOD = "    method: str | None = Field(default=None, max_length=7)\n"
DESCRIPTION = "    description: Text | None = Field(default=None, max_length=2000)\n"
NOTE = "    note: Line | None = Field(default=None, max_length=200)\n"
LEEK = '        "description": "leek",\n'
NULL = '        "note": None,\n'


def edit_kernel(upstream: Repository, name: str, old: str, new: str) -> None:
    path = upstream.root / name
    assert old in path.read_text(), f"{name} has no {old!r}"
    path.write_text(path.read_text().replace(old, new))


# The merge, as docs/upgrading.md says.


def merge(fork: Repository) -> list[str]:
    """Merge the later upstream: the files in conflict."""
    fork.git("fetch", "--quiet", "upstream")
    fork.git("merge", "--quiet", "upstream/main", status=1)
    return fork.conflicts()


def resolve(fork: Repository) -> str:
    """Do what the table says of each conflict, and `features merge`: what that tells."""
    fork.git("checkout", "--ours", "README.md")
    fork.git("rm", "-r", "--force", "--quiet", "features/items")
    return fork.works("features", "merge")


def take_out(fork: Repository, table: str) -> None:
    """Leave the steps for a table out of upstream's revision."""
    (path,) = fork.revisions().glob("*_notes.py")
    steps = re.compile(rf'^    op\.\w+\("{table}", .*\)\n', re.MULTILINE)
    path.write_text(steps.sub("", path.read_text()))
