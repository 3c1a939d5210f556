"""The files in which the workers of one service count, so that any of them can tell for all.

A worker has its file locked (flock(2)) for as long as it lives, in whatever way it ends. What a
dead one has counted stays, its gauges are nobody's, and the next worker goes on in its file.
uvicorn's workers know each other by the key that multiprocessing gives to a parent's children.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import count
from mmap import ACCESS_READ, mmap
from multiprocessing import current_process, parent_process
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir

from kernel.metrics import FAMILIES, STATE, Key, Telling, Values

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, for which it reads it as well
PREFIX = "service-metrics-"
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # its folder there is nobody else's
ALONE = (
    "the workers cannot share their metrics, so that each tells its own: {error}; set"
    f" {VARIABLE} to a folder that they may write"
)
TOO_LATE = (
    "prometheus_client was imported before kernel.http.server, so metrics of slices are told by"
    " each worker for itself: start uvicorn with --http kernel.http.server:Protocol"
)


class MetricFiles:
    """A folder of them, of which one is this worker's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        number, file = next(_free_files(folder))
        self._file = file
        log = folder / f"{number}.series"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        STATE.use(self._continued(Values(file, os.open(log, flags, 0o600)), log))

    def _continued(self, values: Values, log: Path) -> Values:
        """The counts of a worker that is dead, and none of its gauges."""
        for place, width, key in _lines(log):
            values.used = max(values.used, place + width)
            if not _is_known(width, key):
                continue
            values.series[key] = place
            if FAMILIES[key[0]].is_gauge:
                values.numbers[place] = 0.0
        self._bury(int(values.numbers[0]))
        values.numbers[0] = os.getpid()
        return values

    def tell(self) -> Iterator[Telling]:
        """What each worker has counted, and whether it lives."""
        for path in self.folder.glob("*.values"):
            lines = _lines(path.with_suffix(".series"))
            series = {key: place for place, width, key in lines if _is_known(width, key)}
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    continue
                numbers = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)).cast("d")
            is_alive = _is_locked(path)
            if not is_alive:
                self._bury(int(numbers[0]))
            yield series, numbers, is_alive

    def _bury(self, pid: int) -> None:
        """Take away what slices' own gauges have of a dead worker."""
        if pid and any(self.folder.glob(f"gauge_live*_{pid}.db")):
            from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415  # slow

            mark_process_dead(pid, str(self.folder))  # type: ignore[no-untyped-call]  # the library's

    def leave(self) -> None:
        """Let another one have the file; the last one takes the folder away."""
        fcntl.flock(self._file, fcntl.LOCK_UN)  # which closing would not: the map has the file, too
        if not _is_used(self.folder) and self.folder.name.startswith(PREFIX):
            rmtree(self.folder, ignore_errors=True)


class Sharing:
    """Whether this process shares its metrics, and if not, why."""

    files: MetricFiles | None = None
    problem: str | None = None


SHARING = Sharing()


def share_metrics() -> None:
    """Share what is counted with the other workers, if there are any.

    To be called before any metric of a slice's own is made: prometheus_client reads once where.
    """
    parent, given = parent_process(), os.environ.get(VARIABLE)
    if SHARING.files or SHARING.problem or not (parent or given):
        return
    try:
        key = current_process().authkey
        SHARING.files = MetricFiles(_folder(parent.pid or 0, key) if parent else Path(str(given)))
    except OSError as error:
        SHARING.problem = ALONE.format(error=error.strerror)
        os.environ.pop(VARIABLE, None)  # the library would fail with the first metric of a slice
        return
    if "prometheus_client" in sys.modules and not given:
        SHARING.problem = TOO_LATE
    os.environ[VARIABLE] = str(SHARING.files.folder)


def stop_sharing() -> None:
    """Say that this worker has ended."""
    if SHARING.files:
        SHARING.files.leave()
        SHARING.files = None


def _folder(parent: int, key: bytes) -> Path:
    """The folder of this parent's workers, which nobody else can write.

    Raises:
        OSError: there is none.
    """
    given, digest = os.environ.get(VARIABLE), sha256(b"metrics" + key).hexdigest()[:16]
    if given and given.endswith(digest):  # a process that a worker has started
        return Path(given)
    refusal = OSError(2, "there is no such folder")
    for name in [given] if given else [str(IN_MEMORY), None]:
        try:
            place = Path(name or gettempdir())  # where nothing can be written, this is an error too
            folder = place / f"{PREFIX}{parent}-{digest}"
            folder.mkdir(mode=0o700, exist_ok=True)
            _sweep(place)
        except OSError as error:
            refusal = error
        else:
            return folder
    raise refusal


def _sweep(place: Path) -> None:
    """Take away what the workers of a parent that is gone have left, if it was killed."""
    for folder in place.glob(f"{PREFIX}*"):
        parent = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError, ValueError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            try:
                os.kill(int(parent), 0)
            except ProcessLookupError:
                if not _is_used(folder):
                    rmtree(folder)


def _free_files(folder: Path) -> Iterator[tuple[int, int]]:
    """Those of dead workers, and then new ones, each locked from now on."""
    for number in count():
        file = _open_locked(folder / f"{number}.values", fcntl.LOCK_EX)
        if file is not None:
            yield number, file


def _is_used(folder: Path) -> bool:
    return any(map(_is_locked, folder.glob("*.values")))


def _is_locked(path: Path) -> bool:
    file = _open_locked(path, fcntl.LOCK_SH)
    if file is None:
        return True
    os.close(file)
    return False


def _open_locked(path: Path, kind: int) -> int | None:
    """The file, or None if a live worker has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _lines(log: Path) -> Iterator[tuple[int, int, Key]]:
    """Where the numbers of each series begin, and how many there are."""
    text = log.read_bytes() if log.exists() else b""
    # Behind the last line's end is one that is being written.
    for line in text.rpartition(b"\n")[0].splitlines():
        place, width, *key = json.loads(line)
        yield place, width, tuple(key)


def _is_known(width: int, key: Key) -> bool:
    """Whether this code has such a metric: another version may have counted before."""
    family = FAMILIES.get(key[0])
    return family is not None and (family.width, len(family.labels)) == (width, len(key) - 1)
