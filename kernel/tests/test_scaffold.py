"""`python -m features`: slices come and go by a command, and what remains works."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kernel.data.models import Public
from kernel.data.schema import find_heads
from kernel.dev.scaffold.__main__ import run
from kernel.dev.scaffold.conflicts import join_mounts
from kernel.dev.scaffold.migration import ACCEPTED
from kernel.dev.scaffold.mount import mount
from kernel.dev.scaffold.names import check_slice, singular
from kernel.dev.scaffold.survey import Refusal, survey
from kernel.dev.scaffold.tree import apply, contents
from kernel.settings import ROOT
from kernel.tests.extensions.copies import SUITE, WALKS
from kernel.tests.processes import processes_in

ELSEWHERE = shutil.ignore_patterns(".git", ".venv", ".postgres", ".*_cache")
# Together they have every type, optional and not, owners, rows that refer to rows, slices of one
# field, and names that are words of the kernel's. No team is likely to have slices of these names.
SLICES = {
    "radishes": "name:str notes:text? rank:int? seen:datetime? token:uuid?! credit:decimal?"
    " status:choice(open,paid) mail:email! serial:bigint?!",
    "pumpkins": "owner title:str? amount:decimal due:date? paid:bool? order:int! at:datetime"
    " key:uuid ref:radishes reviewer:ref:users? mood:choice:glad,sad? due_min:date? size:bigint",
    "bean_sprouts": "first:ref:pumpkins? ref:users weight:decimal? owner",
    "beets": "on:bool",
    "yams": "a:json?",
    "shallots": "table:str! model:json statement:int self:date order:text cursor:bool",
    "chards": "ref:users",
}

SOWN = """

async def test_the_yams_of_the_migration_are_there(alice):
    assert [yam["id"] for yam in (await alice.get("/yams")).json()["items"]] == [2, 1]
    assert (await alice.post("/yams", json={})).json()["id"] == 3
"""


PARSNIPS = {
    "__init__.py": "",
    "models.py": """
from kernel import Table


class Parsnip(Table, table=True):
    __tablename__ = "parsnips"
""",
    "router.py": """
from kernel import Router

router = Router(prefix="/parsnips", tags=["parsnips"])


@router.get("")
async def list_parsnips() -> None: ...
""",
}


@pytest.fixture
def tree(tmp_path):
    """A copy of everything, in a folder with a space in its name."""
    return shutil.copytree(ROOT, tmp_path / "a copy", ignore=ELSEWHERE)


@pytest.fixture
def parsnips(tree):
    """In a copy, a slice that was made by hand, and has no migration."""
    (tree / "features/parsnips").mkdir()
    for name, text in PARSNIPS.items():
        (tree / "features/parsnips" / name).write_text(text)
    service = tree / "service.py"
    service.write_text(mount(service.read_text(), "parsnips"))
    return tree


def python(tree, *arguments, **options):
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, check=False, env=environment, **options
    )
    return done.returncode, done.stdout, done.stderr


def works(tree, *arguments):
    status, output, errors = python(tree, *arguments)
    assert status == 0, f"{arguments}\n{output[-9000:]}{errors[-3000:]}"
    return output


# What is refused.

LONG = "a" * 39


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("", "required"),
        ("make x", "invalid choice"),
        ("new", "required"),
        ("new turnips title:str --fast", "unrecognized"),
        ("new turnips", "no field"),
        ("new turnips owner", "no field"),
        ("new Turnips title:str", "no name"),
        ("new 2turnips title:str", "no name"),
        ("new in-voices title:str", "no name"),
        ("new _turnips title:str", "no name"),
        ("new turnips__ title:str", "no name"),
        ("new ../turnips title:str", "no name"),
        ("new caf\u00e9s title:str", "no name"),
        ("new class title:str", "Python's"),
        ("new match title:str", "Python's"),
        ("new filter title:str", "Python's"),
        ("new select title:str", "PostgreSQL's"),
        ("new user title:str", "PostgreSQL's"),
        ("new order title:str", "PostgreSQL's"),
        ("new pg_class title:str", "PostgreSQL's"),
        (f"new {LONG}as title:str", "too long"),
        ("new users title:str", "'users' is taken"),
        ("new kernel title:str", "'kernel' is taken"),
        ("new shared title:str", "'shared' is taken"),
        ("new docs title:str", "'docs' is taken"),
        ("new livez title:str", "'livez' is taken"),
        ("new api_keys title:str", "'api_keys' is taken"),
        ("new refresh_tokens title:str", "'refresh_tokens' is taken"),
        ("new idempotency_keys title:str", "'idempotency_keys' is taken"),
        ("new settings title:str", "'settings' is taken"),
        ("new sheep title:str", "--singular"),
        ("new access title:str", "--singular"),
        ("new tokens title:str", "'TokenPublic' is taken"),
        ("new sessions title:str", "'Session' is taken"),
        ("new pages title:str", "'Page' is taken"),
        ("new turnips title:str --singular user", "'User' is taken"),
        ("new turnips title:str --singular reader", "'Reader' is taken"),
        ("new turnips title:str --singular data", "'data' is taken"),
        ("new turnips title:str --singular readiness", "'ReadinessPublic' is taken"),
        ("new turnips title:str --singular liveness", "'get_liveness' is taken"),
        ("new turnips title:str --singular Turnip", "no name"),
        ("new classes title:str", "'class' is a word of Python's"),
        ("new turnips title", "no field"),
        ("new turnips title:", "no field"),
        ("new turnips title:varchar", "no field"),
        ("new turnips title:str:str", "no field"),
        ("new turnips :str", "no name"),
        ("new turnips ti-tle:str", "no name"),
        ("new turnips t\u0456tle:str", "no name"),
        ("new turnips from:str", "Python's"),
        ("new turnips type:str", "Python's"),
        ("new turnips json:json", "'json' is taken"),
        ("new turnips model_kind:str", "'model_kind' is taken"),
        ("new turnips metadata:json", "'metadata' is taken"),
        ("new turnips xmin:int", "'xmin' is taken"),
        ("new turnips owner_id:int", "'owner_id' is taken"),
        ("new turnips title:str owner owner", "'owner' is there twice"),
        ("new turnips title:str title?:str", "'title' is there twice"),
        ("new turnips ref:users user:ref:users", "'user_id' is there twice"),
        ("new turnips owner?", "no field"),
        (f"new turnips {LONG}aa:str", "too long"),
        ("new turnips on:bool!", "'on:bool!' cannot be unique: str, int"),
        ("new turnips ref:users!", "cannot be unique"),
        ("new turnips on:choice(a,b)!", "cannot be unique"),
        ("new turnips title:str!!", "no field"),
        ("new turnips title:str(a,b)", "no field"),
        ("new turnips title:choice", "no field"),
        ("new turnips title:choice:", "no field"),
        ("new turnips title:choice()", "no field"),
        ("new turnips title:choice(a,b", "no field"),
        ("new turnips title:choice(a,b))", "no field"),
        ("new turnips title:choice(a)", "two different words"),
        ("new turnips title:choice:a,a", "two different words"),
        ("new turnips title:choice(a,,b)", "'' is no choice"),
        ("new turnips title:choice(a,B)", "'B' is no choice"),
        (f"new turnips title:choice(a,{LONG}aa)", "is no choice"),
        ("new turnips base:choice(a,b)", "'TurnipBase' is taken"),
        ("new turnips from:choice(a,b)", "Python's"),
        (f"new {LONG}s {LONG[:30]}:ref:users", "too long for PostgreSQL"),
        ("new turnips ref:nothing", "is not a table"),
        ("new turnips ref:turnips", "is not a table"),
        ("new turnips ref:refresh_tokens", "is not a table"),
        ("new turnips ref:api_keys", "is not a table"),
        ("merge turnips", "unrecognized"),
        ("remove nothing --force", "no slice"),
        ("remove kernel --force", "no slice"),
        ("remove scaffold --force", "no slice"),
        ("remove ../users --force", "no slice"),
        ("remove users/../keys --force", "no slice"),
        ("remove users --force", "features/keys/models.py:"),
        ("remove keys --force", "features/users/models.py:"),
        ("remove auth --force", "features/keys/models.py:"),
        ("remove health --force", "Dockerfile:"),
    ],
)
@pytest.mark.slow
def test_an_invalid_command_is_refused_in_one_line(arguments, reason):
    before = contents(ROOT)
    with pytest.raises(Refusal) as refusal:
        run([*arguments.split(), "--dry-run"])
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert contents(ROOT) == before


@pytest.mark.parametrize("name", Public.model_fields)
def test_a_field_that_every_row_has_is_refused(name):
    with pytest.raises(Refusal, match="is taken"):
        run(["new", "turnips", f"{name}:str", "--dry-run"])


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("turnips", "turnip"),
        ("bean_sprouts", "bean_sprout"),
        ("categories", "category"),
        ("ties", "tie"),
        ("addresses", "address"),
        ("boxes", "box"),
        ("dishes", "dish"),
        ("branches", "branch"),
        ("caches", "cache"),
        ("statuses", "status"),
        ("houses", "house"),
        ("keys", "key"),
    ],
)
def test_one_of_a_plural_is_its_singular(name, one):
    assert singular(name) == one


def test_features_are_mounted_in_the_order_of_their_names():
    text = "from features.keys import router as keys\n\n    app.include_router(keys.router)\n"
    for name in ("turnips", "beets", "leeks"):
        text = mount(text, name)
    mounted = re.findall(r"include_router\((\w+)", text)
    assert mounted == ["beets", "keys", "leeks", "turnips"]


def test_a_folder_that_git_has_emptied_is_no_slice(tree):
    (tree / "features/turnips/__pycache__").mkdir(parents=True)
    check_slice("turnips", survey(tree), set())
    with pytest.raises(Refusal, match="no slice"):
        run(["remove", "turnips", "--force"], tree)


def test_a_service_without_a_place_for_another_slice_is_refused(tree):
    service = tree / "service.py"
    service.write_text(service.read_text().replace("app.include_router", "include"))
    with pytest.raises(Refusal, match="no place"):
        run(["new", "turnips", "title:str"], tree)


def test_a_model_that_is_not_python_is_refused(tree):
    (tree / "features/users/models.py").write_text("class")
    with pytest.raises(Refusal, match="is not Python"):
        run(["new", "turnips", "title:str"], tree)


def test_what_git_does_not_have_is_not_removed(parsnips):
    def git(*words):
        return subprocess.run(["git", *words], cwd=parsnips, capture_output=True, check=True)

    git("init")
    git("add", ".")
    with pytest.raises(Refusal, match="not committed"):
        run(["remove", "parsnips"], parsnips)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("features/users/models.py", "x = Field(foreign_key='parsnips.id')"),
        ("features/users/models.py", "x = ForeignKey('parsnips.id')"),
        ("features/users/models.py", "x = table('parsnips', column('id'))"),
        ("features/users/test_users.py", "x = 'SELECT count(*) FROM parsnips'"),
        ("service.py", "parsnips.router.prefix = '/x'"),
        ("service.py", "from features.parsnips.handlers import list_parsnips"),
        ("Dockerfile", "HEALTHCHECK http://127.0.0.1/parsnips"),
        ("deploy/compose.yaml", "  # /parsnips?limit=1"),
    ],
)
def test_a_slice_that_something_needs_is_not_removed(parsnips, path, line):
    file = parsnips / path
    file.write_text(f"{file.read_text()}{line}\n")
    number = len(file.read_text().splitlines())
    with pytest.raises(Refusal, match=f"needed by {path}:{number}$"):
        run(["remove", "parsnips"], parsnips)


# Not at the beginnings of lines, or this file would be in conflict.
CONFLICT = "<<<<<<< HEAD\n{ours}=======\n{theirs}>>>>>>> upstream/main\n"
BEETS = "from features.beets import router as beets\n"
LEEKS = "from features.leeks import router as leeks\n"
CORS = "    app.add_middleware(CORS)\n"
MOUNTED = "    app.include_router(leeks.router, prefix='/x')\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (BEETS, LEEKS, BEETS + LEEKS),
        (BEETS, BEETS + LEEKS, BEETS + LEEKS),
        (CORS, MOUNTED, CORS + MOUNTED),
        (MOUNTED, CORS, MOUNTED + CORS),
        (f"||||||| base\n{BEETS}", LEEKS, LEEKS),
        (BEETS, BEETS.replace("beets", "removed"), BEETS),
    ],
)
def test_the_features_of_both_sides_of_a_conflict_stay(ours, theirs, both):
    conflict = CONFLICT.format(ours=ours, theirs=theirs)
    assert join_mounts(f"a\n{conflict}z\n", {"beets", "leeks"}) == f"a\n{both}z\n"


def test_a_conflict_about_anything_else_is_for_a_person(tree):
    service = tree / "service.py"
    conflict = CONFLICT.format(ours=CORS, theirs=CORS.replace("CORS", "GZip"))
    service.write_text(f"{conflict}{service.read_text()}")
    before = contents(tree)
    with pytest.raises(Refusal, match=r"^service\.py:1 is in conflict: resolve it first$"):
        run(["merge"], tree)
    assert contents(tree) == before


# What is done.


def test_a_tree_that_somebody_else_changes_is_left_alone(tree):
    before = contents(tree)
    (tree / "service.py").write_text("")
    with pytest.raises(Refusal, match="in the meantime"):
        apply(tree, before, {"service.py": b"mine"})
    assert (tree / "service.py").read_text() == ""


@pytest.mark.slow
def test_a_refusal_is_one_line_and_status_2(tree):
    assert python(tree, "features", "new", "users") == (2, "", "'users' is taken: choose another\n")


@pytest.mark.slow
def test_a_dry_run_shows_the_changes_and_makes_none(tree):
    before = contents(tree)
    shown = works(tree, "features", "new", "turnips", "title:str", "owner", "--dry-run")
    assert contents(tree) == before
    works(tree, "features", "new", "turnips", "title:str", "owner")
    after = contents(tree)
    for name in after.keys() - before.keys():
        (tree / name).unlink()
    for name in ("service.py", "openapi.json"):
        (tree / name).write_bytes(before[name])
    assert contents(tree) == before
    # A revision's id is its time, and so another one.
    (made,) = {name for name in after.keys() - before.keys() if name.startswith("migrations/")}
    id_ = re.compile(r"(\d{8}T\d{6}_\w{4})_turnips")
    (other,) = set(id_.findall(shown))
    shown = shown.replace(other, id_.findall(made)[0])
    subprocess.run(["git", "apply"], cwd=tree, input=shown.encode(), check=True)
    assert contents(tree) == after


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["new turnips title:str", "remove parsnips"])
def test_models_that_lack_a_migration_get_theirs_first(parsnips, arguments):
    with pytest.raises(Refusal, match="the models need a migration first"):
        run(arguments.split(), parsnips)


@pytest.fixture
def forked(tree):
    """A copy whose history has two heads."""
    versions = tree / "migrations/versions"
    (head,) = find_heads(versions)
    (last,) = versions.glob(f"{head}_*.py")
    for name in ("one", "other"):
        fork = re.sub("(?m)^revision = .*", f'revision = "{name}"', last.read_text())
        fork = re.sub("(?m)^down_revision = .*", f'down_revision = "{head}"', fork)
        (versions / f"{name}.py").write_text(fork)
    return tree


@pytest.mark.slow
def test_heads_are_joined_and_the_contract_is_written_anew(forked):
    (forked / "openapi.json").write_text("<<<<<<< HEAD\n{}\n=======\n")
    before = contents(forked)
    shown = run(["merge", "--dry-run"], forked)
    assert contents(forked) == before
    assert '+down_revision = ("one", "other")' in shown
    run(["merge"], forked)
    after = contents(forked)
    (written,) = after.keys() - before.keys()
    assert {name: after[name] for name in before if after[name] != before[name]} == {
        "openapi.json": (ROOT / "openapi.json").read_bytes()
    }
    assert re.fullmatch(r"migrations/versions/\d{8}T\d{6}_\w{4}_merge\.py", written)
    assert find_heads(forked / "migrations/versions") == {written.split("/")[-1][:20]}
    assert run(["merge"], forked).startswith("nothing to do")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["new turnips title:str", "remove items --force", "contract"])
def test_what_needs_one_head_names_the_command_that_makes_it(forked, arguments):
    with pytest.raises(Refusal, match=r"the migrations have .* merge`$"):
        run(arguments.split(), forked)


@pytest.mark.slow
def test_what_cannot_all_be_written_is_not_written_in_part(tree):
    (tree / ".openapi.json.new").mkdir()  # in the way of the last but one
    before = contents(tree)
    status, _, errors = python(tree, "features", "new", "turnips", "title:str")
    assert (status, errors.count("\n")) == (2, 1)
    assert contents(tree) == before
    assert not (tree / "features/turnips").exists()


@pytest.mark.slow(seconds=15)
def test_what_is_added_and_removed_leaves_two_migrations(tree):
    before = contents(tree)
    works(tree, "features", "new", "turnips", *SLICES["radishes"].split(), "owner")
    added = contents(tree)
    shown = works(tree, "features", "remove", "turnips", "--dry-run")
    assert contents(tree) == added
    assert "-from features.turnips import router as turnips" in shown
    works(tree, "features", "remove", "turnips")
    after = contents(tree)
    made, dropped = sorted(after.keys() - before.keys())
    assert {name: after[name] for name in before} == before
    assert not (tree / "features/turnips").exists()
    assert "CREATE TRIGGER count_version BEFORE UPDATE ON turnips" in after[made].decode()
    assert functions(after[made], "upgrade") == functions(after[dropped], "downgrade")
    reason = f"{ACCEPTED}\n    "
    assert functions(after[dropped], "upgrade").count(reason) == 1
    dropping = functions(after[dropped], "upgrade").replace(reason, "")
    assert functions(after[made], "downgrade") == dropping
    works(tree, "pytest", "-q", "-n0", "tests/test_migrations.py")


def functions(revision, name):
    return revision.decode().split(f"def {name}() -> None:\n")[1].split("\n\n\ndef ")[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.3, 1, 2, 3])
def test_a_command_that_is_stopped_leaves_nothing(tree, tmp_path, how, seconds):
    before = contents(tree)
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "features", "new", "turnips", "title:str"],
        cwd=tree,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(seconds)
    process.send_signal(how)
    process.communicate(timeout=60)
    if process.returncode:
        assert contents(tree) == before
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_in(tmp_path) == {}


# Its first helper is one that takes its time.
INTERRUPTED = """
import os, signal, subprocess, sys
from kernel.dev.scaffold.__main__ import main

start = subprocess.Popen._execute_child

def start_and_interrupt(self, args, executable, *others):
    start(self, ["sleep", "9"], None, *others)
    print(self.pid)
    os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen._execute_child = start_and_interrupt
main()
"""


@pytest.mark.slow
def test_a_command_that_is_stopped_while_a_helper_starts_stops_it(tree):
    before = contents(tree)
    arguments = ["-c", INTERRUPTED, "new", "turnips", "title:str"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "stopped: nothing is written\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert contents(tree) == before


@pytest.mark.slow(seconds=150)
def test_slices_of_every_type_pass_the_tests_of_a_team(tree):
    for name, fields in SLICES.items():
        works(tree, "features", "new", name, *fields.split())
    sow(tree)
    check_style(tree)
    works(tree, "pytest", "-q", *[f"features/{name}" for name in SLICES], *SUITE[1:])
    # Pumpkins have the types of the others again, and each of their bodies needs two rows.
    ours = f"({' or '.join(map(singular, SLICES))}) and not (pumpkin and no_value_of_a_field)"
    said = works(tree, "pytest", "-q", *WALKS, "-k", ours, "-m", "slow or not slow")
    assert int(re.findall(r"(\d+) passed", said)[0]) > 300


def check_style(tree):
    works(tree, "ruff", "check")
    works(tree, "ruff", "format", "--check")
    works(tree, "mypy", ".")


def sow(tree):
    """Let a migration make rows, which the slice's tests will find."""
    (migration,) = (tree / "migrations/versions").glob("*_yams.py")
    end = "\n\n\ndef downgrade"
    seeded = f"""\n    op.execute("INSERT INTO yams (a) VALUES (NULL), ('{{}}')"){end}"""
    migration.write_text(migration.read_text().replace(end, seeded))
    tests = tree / "features/yams/test_yams.py"
    rules = tests.read_text().split("RULES = ")[1].split("WRONG = ")[0]
    tests.write_text(f"RULES = {rules}{SOWN}")


def removable():
    """The slices that nothing else needs."""
    for folder in sorted((ROOT / "features").glob("*/router.py")):
        try:
            run(["remove", folder.parent.name, "--dry-run", "--force"])
        except Refusal:
            continue
        yield folder.parent.name


def without(names, tree):
    """A copy of everything but these slices."""
    shutil.copytree(ROOT, tree, ignore=ELSEWHERE)
    for name in names:
        works(tree, "features", "remove", name, "--force")
    check_style(tree)
    return tree


@pytest.mark.slow(seconds=100)
def test_what_remains_without_a_slice_works(tmp_path):
    """Without each: the tests of the others that can go. Those of the rest: without all of them."""
    names = list(removable())
    assert names
    for name in names:
        others = [f"features/{other}" for other in names if other != name]
        works(without([name], tmp_path / name), "pytest", "-q", "-n0", *others)
    works(without(names, tmp_path / "without all"), "pytest", "-q", *SUITE)
