"""Cache: pixels are decoded once, into a folder that runs share, and then mapped into memory."""

import hashlib
import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import geoseg
from geoseg.config import resolve_path
from geoseg.errors import GeosegError, OutputError
from geoseg.losses import planes_of
from geoseg.training.entry import Stored, build, bytes_needed, stored
from geoseg.training.ground import Ground
from geoseg.training.pieces import Piece
from geoseg.training.published import cache_folder
from geoseg.training.room import alone, free_memory, make_entry, make_room, open_entry
from geoseg.windows import Window

log = logging.getLogger(__name__)

_DECODERS = ("grid.py", "windows.py", "scene", "synthetic", "targets", "training/sources")
_OWN = ("training/pieces.py", "training/entry.py", "training/summary.py", "losses/boundary.py")
"""The code that decides decoded pixels: with a change in it, they are decoded again."""
_TRIES = 3


def pixel_folder(said: str | None) -> Path:
    """Where decoded pixels are kept: the folder that the configuration names, or one in the user's cache folder."""
    return resolve_path(said) if said else cache_folder() / "pixels"


def decode(pieces: Sequence[Piece], folder: Path | None, limit_bytes: int, distances: int = 0) -> list[Ground]:
    """The ground of every piece in order, decoded at most once and then mapped from `folder`.

    An entry in use is never removed, by whatever run. Two runs that want the same pixels share the work. What was cut
    or damaged is decoded again. Where nothing can be kept, the pixels stay in memory and one warning says why.

    Args:
        pieces: What is to be decoded; those of one source are kept together.
        folder: Of the cache; made if missing. None: everything stays in memory.
        limit_bytes: What the folder may take on the disk; what was used longest ago goes first.
        distances: Number of classes, if a loss wants the distances to their outlines (`Mixture.wants_distances`).

    Raises:
        OutputError: If the pixels have room neither on the disk nor in memory.
        GeosegError: What reading the pieces raises.
    """
    shelf = _Shelf(folder, limit_bytes, distances)
    keys = [_key(piece, distances) for piece in pieces]
    sources: dict[str, dict[str, Piece]] = {}
    for key, piece in zip(keys, pieces, strict=True):
        sources.setdefault(piece.source, {})[key] = piece
    found = {source: shelf.fetch(source, own) for source, own in sources.items()}
    return [_ground(piece, found[piece.source][key]) for key, piece in zip(keys, pieces, strict=True)]


def _ground(piece: Piece, pixels: Stored) -> Ground:
    return Ground(
        name=piece.name,
        source=piece.source,
        data=pixels.data,
        valid=pixels.valid,
        target=pixels.target,
        grid=piece.grid,
        known=piece.known,
        gsd=piece.gsd,
        zoom=piece.zoom,
        share=piece.share,
        frame=piece.frame,
        further=pixels.further,
        distances=pixels.distances,
        summary=pixels.summary,
    )


class _Shelf:
    """The entries of one folder, as one run sees them."""

    def __init__(self, folder: Path | None, limit_bytes: int, distances: int) -> None:
        self.folder, self.limit, self.classes = folder, limit_bytes, distances
        self.why = ""
        """Why nothing is kept any more."""

    def fetch(self, source: str, pieces: Mapping[str, Piece]) -> dict[str, Stored]:
        """The pixels of a source by the pieces' keys: from the folder if they are there, else decoded."""
        wanted = dict(sorted(pieces.items()))  # whatever the order in which they come
        name = hashlib.sha256("".join(wanted).encode()).hexdigest()[:32]
        if self.folder is not None:
            try:
                if entry := self._kept(self.folder, name, source, wanted):
                    return entry
            except OSError as err:
                if isinstance(err, GeosegError):
                    raise
                self._give_up(f"{self.folder} cannot be written ({err.strerror or err})")
        work = _Work(wanted, self.classes)
        if (free := free_memory()) is not None and work.bytes > free:
            raise OutputError(
                f"source {source} takes {_size(work.bytes)} decoded; of memory, {_size(free)} are free"
                f"{f', and {self.why}' if self.why else ''}. Expected room in one of the two. Name another folder with "
                "data.cache, raise data.cache_gb, or train on less."
            )
        log.info("Decoding %s into memory: %d pieces, %s.", source, len(wanted), _size(work.bytes))
        file = io.BytesIO()
        return stored(work.into(file), file.getbuffer().toreadonly())

    def _kept(self, folder: Path, name: str, source: str, wanted: Mapping[str, Piece]) -> dict[str, Stored] | None:
        """From the folder, made there first if need be; None if there is no room."""
        folder.mkdir(parents=True, exist_ok=True)
        if entry := open_entry(folder / name):
            return entry
        with alone(folder / f"{name}.lock", f"Another run decodes {source}: waiting for it."):
            if entry := open_entry(folder / name):  # another run has made it in the meantime
                return entry
            work = _Work(wanted, self.classes)
            if lacking := make_room(folder, work.bytes, self.limit):
                self._give_up(f"{folder} has no room for {_size(work.bytes)} of decoded pixels ({lacking})")
                return None
            log.info("Decoding %s into %s: %d pieces, %s.", source, folder, len(wanted), _size(work.bytes))
            begun = time.perf_counter()
            for _ in range(_TRIES):
                make_entry(folder / name, work.bytes, work.into)
                if entry := open_entry(folder / name):  # else another run has just removed it to make room
                    log.info("Decoded %s in %.1f s.", source, time.perf_counter() - begun)
                    return entry
            self._give_up(f"{folder}: other runs remove what is written")
            return None

    def _give_up(self, why: str) -> None:
        if not self.why:
            log.warning("%s. Pixels stay in memory, and the next run decodes them again.", why)
        self.why = self.why or why


class _Work:
    """What is to be decoded into one entry."""

    def __init__(self, pieces: Mapping[str, Piece], classes: int) -> None:
        self.pieces, self.classes = pieces, classes
        first = next(iter(pieces.values()))
        glance = first.read(Window(row=0, col=0, height=1, width=1))
        self.further = {head: len(plane) for head, plane in glance.further.items()}
        self.planes = [_planes(piece, classes) for piece in pieces.values()]
        self.bytes = bytes_needed(list(pieces.values()), self.further, self.planes)

    def into(self, file: BinaryIO) -> bytes:
        """Decode into an open file; returns the index."""
        return build(self.pieces, self.further, self.planes, self.classes, file)


def _key(piece: Piece, classes: int) -> str:
    """A name for all that decides the pixels of a piece."""
    files = [(str(path), *_stamp(path)) for path in piece.files]
    shape = [*piece.grid.shape, len(piece.bands), piece.dtype.str]
    known = [list(piece.known), classes] if classes else None
    said = json.dumps([_code(), files, dict(piece.recipe), shape, known], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _planes(piece: Piece, classes: int) -> int:
    """Of distances."""
    if not classes:
        return 0
    return planes_of(len(piece.known) + 1 if classes - len(piece.known) >= 2 else classes)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of last change; a file that is not there is missed by who reads it."""
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return found.st_size, found.st_mtime_ns


@cache
def _code() -> str:
    package = Path(geoseg.__file__).parent
    files = sorted(
        file
        for path in (package / name for name in (*_DECODERS, *_OWN))
        for file in (path.rglob("*.py") if path.is_dir() else [path])
        if file.is_file()
    )
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
