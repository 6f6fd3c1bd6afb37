"""What was found out about files before, kept beside the decoded pixels, and dropped when a file changes."""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import geoseg

log = logging.getLogger(__name__)

_KEPT = 256
"""Surveys kept; the ones used longest ago go first."""
_FINDERS = ("scene", "splits", "targets", "training/sources")
_WORLD = (".tfw", ".tifw", ".jgw", ".jpgw", ".pgw", ".pngw", ".wld")
_BESIDE = (".aux.xml", ".msk", *_WORLD, ".prj", ".shx", ".dbf", ".cpg", "-wal")
"""Endings of files beside another that decide what it says; -wal: what was drawn in a GeoPackage that is still open."""


def neighbours() -> Callable[[Path], frozenset[str]]:
    """Gives the names in a folder, each folder looked at once."""

    @cache
    def names(folder: Path) -> frozenset[str]:
        try:
            return frozenset(one.name for one in folder.iterdir())
        except OSError:
            return frozenset()

    return names


def belonging(paths: Iterable[Path], names: Callable[[Path], frozenset[str]]) -> tuple[Path, ...]:
    """The files with those beside them that decide what they say: world files, masks, other parts of vector files."""
    found: dict[Path, None] = {}
    for path in paths:
        found[path] = None
        there = names(path.parent)
        for ending in _BESIDE:
            for name in (path.name + ending, path.stem + ending):
                if name in there:
                    found[path.parent / name] = None
    return tuple(found)


class Surveys:
    """Answers that cost a look at all pixels, by question and files."""

    def __init__(self, folder: Path | None) -> None:
        """Kept in a folder, made when the first answer is; None: nowhere."""
        self.folder = folder

    def recall(self, question: Mapping[str, Any], files: Sequence[Path], find: Callable[[], Any]) -> Any:
        """The answer of `find`, as JSON has it, from last time if no file has changed since.

        Warnings that were logged while it was found are logged again.
        """
        if self.folder is None:
            return json.loads(json.dumps(find()))
        stamps = [(str(path.absolute()), stat.st_size, stat.st_mtime_ns) for path in files if (stat := _stat(path))]
        key = json.dumps([_code(), question, stamps], sort_keys=True)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text("utf-8"))
            answer, remarks = kept["answer"], list(map(str, kept["remarks"]))
            os.utime(path)
            for remark in remarks:
                log.warning("%s", remark)
            return answer
        with _heard() as remarks:
            answer = find()
        self._keep(path, {"answer": answer, "remarks": remarks})
        return json.loads(json.dumps(answer))

    def _keep(self, path: Path, kept: Mapping[str, Any]) -> None:
        """Write an answer by renaming; a folder that cannot be written costs time, not the run."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.stem}.{os.getpid()}.new")
            new.write_text(json.dumps(kept), "utf-8")
            new.replace(path)
            found = sorted(path.parent.glob("*.json"), key=lambda one: (_stat(one) or path.stat()).st_mtime_ns)
            for old in found[:-_KEPT]:
                old.unlink(missing_ok=True)
        except OSError as err:
            log.info("What was found out about the data is not kept: %s", err)


@cache
def _code() -> str:
    """What answers depend on beside the files: with a change in this code, they are found again."""
    package = Path(geoseg.__file__).parent
    files = [file for name in _FINDERS for file in sorted((package / name).glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects what geoseg warns of on this thread."""
    heard: list[str] = []
    thread = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                heard.append(record.getMessage())

    ear, logger = Ear(logging.WARNING), logging.getLogger("geoseg")
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)
