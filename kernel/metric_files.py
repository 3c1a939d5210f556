"""The files in which the workers of one service count, so that each can serve the totals of all.

A worker holds a lock on its file (flock(2)) while it lives; the system releases it however the
worker ends. A dead worker's counters are kept, its gauges are dropped, and the next new worker
continues in its file. uvicorn's workers find each other by the key that multiprocessing gives to a
parent's children.
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

from kernel.metrics import FAMILIES, STATE, Key, Values, WorkerMetrics

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it, too
PREFIX = "service-metrics-"
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # the folder made in it is private to this user
ALONE = (
    "the workers cannot share their metrics, so each one serves its own: {error}; set"
    f" {VARIABLE} to a folder that they can write"
)
TOO_LATE = (
    "prometheus_client was imported before kernel.http.server, so each worker serves its own"
    " metrics of slices: start uvicorn with --http kernel.http.server:Protocol"
)


class MetricFiles:
    """The folder of the workers' files; one of them is this worker's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        number, file = next(_free_files(folder))
        self._file = file
        log = folder / f"{number}.series"
        series = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # What a worker was writing when it was killed would be a part of the next line.
        os.ftruncate(series, len(_whole_lines(log)))
        STATE.use(self._continued(Values(file, series), log))

    def _continued(self, values: Values, log: Path) -> Values:
        """The counters of the dead worker that had the file; its gauges become 0."""
        for place, width, key in _lines(log):
            values.used = max(values.used, place + width)
            if not _is_known(width, key):
                continue
            values.series[key] = place
            if FAMILIES[key[0]].is_gauge:
                values.numbers[place] = 0.0
        self._remove_live_gauges(int(values.numbers[0]))
        values.numbers[0] = os.getpid()
        return values

    def read_all(self) -> Iterator[WorkerMetrics]:
        """The series and numbers of each worker, and whether it lives."""
        for path in self.folder.glob("*.values"):
            lines = _lines(path.with_suffix(".series"))
            series = {key: place for place, width, key in lines if _is_known(width, key)}
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    continue
                numbers = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)).cast("d")
            is_alive = _is_locked(path)
            if not is_alive:
                self._remove_live_gauges(int(numbers[0]))
            yield series, numbers, is_alive

    def _remove_live_gauges(self, pid: int) -> None:
        """Remove a dead worker's values of slices' gauges."""
        if pid and any(self.folder.glob(f"gauge_live*_{pid}.db")):
            from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415  # slow

            mark_process_dead(pid, str(self.folder))  # type: ignore[no-untyped-call]  # the library's

    def leave(self) -> None:
        """Release the file for another worker; the last worker removes the folder."""
        fcntl.flock(self._file, fcntl.LOCK_UN)  # closing would not unlock: the map keeps it open
        if not _is_used(self.folder) and self.folder.name.startswith(PREFIX):
            rmtree(self.folder, ignore_errors=True)


class Sharing:
    """Whether this process shares its metrics, and if not, why."""

    files: MetricFiles | None = None
    problem: str | None = None


SHARING = Sharing()


def share_metrics() -> None:
    """Share the metrics with the other workers, if there are any.

    Call it before a slice makes a metric: prometheus_client reads the variable once, on import.
    """
    parent, configured = parent_process(), os.environ.get(VARIABLE)
    if SHARING.files or SHARING.problem or not (parent or configured):
        return
    try:
        key = current_process().authkey
        folder = _folder(parent.pid or 0, key) if parent else Path(str(configured))
        SHARING.files = MetricFiles(folder)
    except OSError as error:
        SHARING.problem = ALONE.format(error=error.strerror)
        os.environ.pop(VARIABLE, None)  # the library would fail with the first metric of a slice
        return
    if "prometheus_client" in sys.modules and not configured:
        SHARING.problem = TOO_LATE
    os.environ[VARIABLE] = str(SHARING.files.folder)


def stop_sharing() -> None:
    """Release this worker's file, at its end."""
    if SHARING.files:
        SHARING.files.leave()
        SHARING.files = None


def _folder(parent: int, key: bytes) -> Path:
    """The folder of this parent's workers, which no other user can write.

    Raises:
        OSError: it cannot be made.
    """
    configured, digest = os.environ.get(VARIABLE), sha256(b"metrics" + key).hexdigest()[:16]
    if configured and configured.endswith(digest):  # a process that a worker has started
        return Path(configured)
    refusal = OSError(2, "there is no such folder")
    for name in [configured] if configured else [str(IN_MEMORY), None]:
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
    """Remove the folders of parents that were killed, and whose workers are gone."""
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
    """Number and descriptor of the files of dead workers, then of new ones; each is locked."""
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
    """Of each series: where its numbers begin, how many there are, and its key."""
    for line in _whole_lines(log).splitlines():
        place, width, *key = json.loads(line)
        yield place, width, tuple(key)


def _whole_lines(log: Path) -> bytes:
    """The log up to its last line break: after that, a line may still be being written."""
    text = log.read_bytes() if log.exists() else b""
    return text[: text.rfind(b"\n") + 1]


def _is_known(width: int, key: Key) -> bool:
    """Whether this code has such a metric: another version may have counted before."""
    family = FAMILIES.get(key[0])
    return family is not None and (family.width, len(family.labels)) == (width, len(key) - 1)
