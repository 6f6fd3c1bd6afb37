"""Journal: what a run has finished, kept beside its output, so that it can go on after it was killed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import geopandas
import numpy as np
import shapely
from pyproj import CRS

from geoseg.errors import OutputExistsError, SceneError, UsageError
from geoseg.spool import Spool
from geoseg.vectors.threads import MOST, Arrays, from_threads

T = TypeVar("T")
_ROOM = 10**9
"""Numbers for some frames and for the items on the way to them: more than there can be of these."""
_LAYOUT, _SHAPES, _TEXT, _NUMBERS = "layout", "shapes", "text", "numbers"
Frames = Mapping[str, geopandas.GeoDataFrame]


class Journal:
    """Steps of a run, numbered as they are asked for: what is there already is read, the rest is done and kept.

    Frames, and the items on the way to them, have numbers of their own, whether the items are asked for or not. Which
    steps follow each other depends on input and options alone, and these are the spool's fingerprint.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        """Of a spool; without one, nothing is kept."""
        self._spool, self._next = spool, 0

    @classmethod
    def beside(cls, output: Path, fingerprint: Mapping[str, Any], *, resume: bool, overwrite: bool) -> "Journal":
        """In the folder `<output>.partial`. Arguments and errors are those of `Spool.open`."""
        folder = output.with_name(f"{output.name}.partial")
        return cls(Spool.open(folder, fingerprint, resume=resume, overwrite=overwrite, unit="part", inputs="raster"))

    def map(self, function: Callable[[T], Arrays], items: Iterable[T], most: int = MOST) -> list[Arrays]:
        """As `in_threads`, each item a step: what is made of it is kept as soon as it is there."""
        items = list(items)
        steps = range(self._next, self._next + len(items))
        self._next = steps.stop
        done = self._spool.done if self._spool else set()
        todo = [item for step, item in zip(steps, items, strict=True) if step not in done]
        found: list[Arrays] = []
        with closing(from_threads(function, todo, most)) as made:
            for step in steps:
                if self._spool and step in done:
                    found.append(tuple(self._spool.read(step).values()))
                    continue
                found.append(next(made))
                if self._spool:
                    self._spool.write(step, {str(index): array for index, array in enumerate(found[-1])})
        return found

    def frames(self, make: Callable[[], Frames], crs: CRS | None) -> Frames:
        """Frames by name, all of them one step."""
        step = -(-self._next // _ROOM) * _ROOM
        if self._spool and step in self._spool.done:
            self._next = step + _ROOM
            return _unpacked(self._spool.read(step), crs)
        self._next = step + 1
        made = make()
        self._next = step + _ROOM
        if self._spool:
            self._spool.write(step, dict(_packed(made)))
        return made

    def remove(self) -> None:
        """The run is complete, or what it has finished is of no use."""
        if self._spool:
            self._spool.remove()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While a run lasts. What it has finished stays for the next one, unless that could only fail again."""
        try:
            yield
        except (SceneError, UsageError) as err:
            if not isinstance(err, OutputExistsError):
                self.remove()
            raise
        except KeyboardInterrupt as stop:
            if self._spool and self._spool.done:
                stop.add_note("What is finished is kept. Go on with --resume.")
            raise
        finally:
            if self._spool:
                self._spool.close()


def _packed(frames: Frames) -> Iterator[tuple[str, np.ndarray]]:
    """Frames as arrays: numbers as they are, text as JSON, shapes as well-known binary."""
    kinds = {
        name: {
            field: _SHAPES if field == frame.geometry.name else _NUMBERS if frame[field].dtype.kind in "iufb" else _TEXT
            for field in frame
        }
        for name, frame in frames.items()
    }
    yield _LAYOUT, _text(kinds)
    for name, frame in frames.items():
        for field, kind in kinds[name].items():
            if kind == _SHAPES:
                shapes = shapely.to_wkb(frame[field].to_numpy())
                yield f"{name}/{field}/sizes", np.array([len(shape) for shape in shapes], np.int64)
                yield f"{name}/{field}", np.frombuffer(b"".join(shapes), np.uint8)
            else:
                yield f"{name}/{field}", frame[field].to_numpy() if kind == _NUMBERS else _text(frame[field].tolist())


def _unpacked(arrays: Mapping[str, np.ndarray], crs: CRS | None) -> Frames:
    found = {}
    for name, kinds in json.loads(arrays[_LAYOUT].tobytes()).items():
        columns: dict[str, Any] = {}
        for field, kind in kinds.items():
            stored = arrays[f"{name}/{field}"]
            if kind == _SHAPES:
                sizes = arrays[f"{name}/{field}/sizes"]
                wkb = [stored[stop - size : stop].tobytes() for size, stop in zip(sizes, np.cumsum(sizes), strict=True)]
                columns[field] = shapely.from_wkb(np.array(wkb, object))
            else:
                columns[field] = stored.copy() if kind == _NUMBERS else np.array(json.loads(stored.tobytes()), object)
        shapes = next(field for field, kind in kinds.items() if kind == _SHAPES)
        found[name] = geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)
    return found


def _text(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)
