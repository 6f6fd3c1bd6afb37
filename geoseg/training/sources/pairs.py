"""Images and the files that belong to them, by the names they have."""

import fnmatch
import glob
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from geoseg.errors import LabelsError

SIDECARS = {".xml", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".msk", ".qml", ".txt", ".json", ".csv", ".db"}
"""Files beside an image that belong to it, or to the folder, and are no images."""

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a folder and what is known of it."""

    images: tuple[Path, ...]
    """Its file, or files: of bands, or of dates."""
    labels: Path | None = None
    """The label raster of the main head."""
    targets: Mapping[str, Path] = field(default_factory=dict)
    """Those of further heads."""
    group: str = ""
    """What it is a part of: a scene, a city, a folder."""
    split: str | None = None
    """`train`, `val` or `none`, where the folder says so."""
    values: Mapping[int, str] | None = None
    """What values of the label raster mean, where the layout says so."""


Lookup = Callable[[Path], Sequence[str]]
"""The names of the files in a folder, sorted."""


def listing() -> Lookup:
    """Lists every folder once."""

    @cache
    def names(folder: Path) -> Sequence[str]:
        try:
            return sorted(path.name for path in folder.iterdir() if path.is_file())
        except OSError:
            return ()

    return names


def is_image_name(name: str) -> bool:
    """Whether a file may be an image, or a label raster, by its name."""
    return not name.startswith(".") and Path(name).suffix.lower() not in SIDECARS


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which tile_2 comes before tile_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]


def find_images(folder: Path, patterns: str | Sequence[str]) -> list[Item]:
    """Every image that a glob pattern finds, in natural order of name; of several patterns, those that belong together.

    Raises:
        LabelsError: If the folder or images are missing, or the files of several patterns do not match.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not folder.is_dir():
        raise LabelsError(f"data={folder} is not a folder. Expected a folder with images/ and labels/.")
    found = [_found(folder, pattern) for pattern in patterns]
    if len(patterns) == 1:
        return [Item((path,), group=path.parent.relative_to(folder).as_posix()) for path in found[0].values()]
    first, *others = found
    for pattern, other in zip(patterns[1:], others, strict=True):
        if odd := sorted(set(first) ^ set(other)):
            which = (first if odd[0] in first else other)[odd[0]]
            raise LabelsError(
                f"{which} has no file that belongs to it by {pattern!r} or {patterns[0]!r}. Expected one for each "
                f"image: of {len(first)} and {len(other)} files, {len(odd)} are alone."
            )
    group = {key: path.parent.relative_to(folder).as_posix() for key, path in first.items()}
    return [Item(tuple(files[key] for files in found), group=group[key]) for key in first]


def _found(folder: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """The files of a pattern by what its wildcards stand for, endings left out, in natural order."""
    found = sorted((path for path in _glob(folder, pattern) if path.is_file()), key=natural)
    if not found:
        raise LabelsError(
            f"{folder} has no images that match {pattern!r}. Expected images/ and labels/ with equal names, or another "
            "known layout (manifest.csv, PASCAL VOC, Cityscapes, train/ and val/)."
        )
    return {wildcards(pattern, path.relative_to(folder).as_posix()) or (path.as_posix(),): path for path in found}


def _glob(folder: Path, pattern: str) -> list[Path]:
    """What a pattern finds in a folder, but for files that are no images."""
    try:
        return [path for path in folder.glob(pattern) if is_image_name(path.name)]
    except (ValueError, NotImplementedError, IndexError) as err:
        raise LabelsError(f"pattern {pattern!r}: {err}. Expected a glob pattern that starts from {folder}.") from err


def _filled(pattern: str, stem: str, parent: str) -> str:
    """A pattern with what {stem} and {parent} stand for."""
    try:
        return pattern.format(stem=stem, parent=parent)
    except (ValueError, LookupError, AttributeError) as err:
        raise LabelsError(f"pattern {pattern!r} has braces round other words. Expected stem or parent.") from err


def wildcards(pattern: str, name: str) -> tuple[str, ...]:
    """What each wildcard of a glob pattern stands for in a name; an ending that the last one takes in is left out."""
    parts = re.split(r"(\*\*/|\*|\?|\[!?[^\]]+\])", pattern)
    regex = "".join(
        re.escape(part) if not at % 2 else {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}.get(part, f"({part})")
        for at, part in enumerate(parts)
    ).replace("[!", "[^")
    match = re.fullmatch(regex, name)
    if not match:
        return ()
    last = Path(match[match.lastindex or 0])
    if not match.lastindex:
        return ()
    ends = match.end(match.lastindex) == len(name) and bool(last.suffix)
    return (*match.groups()[:-1], last.stem if ends else last.as_posix())


def stem_of(images: Sequence[Path], folder: Path, patterns: str | Sequence[str]) -> str:
    """What `{stem}` stands for: the name without ending, of several files what their last wildcard stands for."""
    if len(images) == 1 or isinstance(patterns, str):
        return images[0].stem
    return (wildcards(patterns[0], images[0].relative_to(folder).as_posix()) or (images[0].stem,))[-1]


def find_beside(folder: Path, images: Sequence[tuple[Path, str]], pattern: str, look: Lookup) -> list[Path]:
    """The one file for each (image, stem) that a pattern with {stem} and {parent} finds.

    Raises:
        LabelsError: If there is none, or there are several.
    """
    found = []
    for image, stem in images:
        matches = _matches(folder, image, stem, pattern, look)
        if len(matches) != 1:
            many = f"{len(matches)} label rasters that match" if matches else "no label raster that matches"
            said = _filled(pattern, stem, image.parent.relative_to(folder).as_posix())
            raise LabelsError(f"{image} has {many} {said!r} in {folder}. Expected one.")
        found.append(matches[0])
    return found


def _matches(folder: Path, image: Path, stem: str, pattern: str, look: Lookup) -> list[Path]:
    parent = image.parent.relative_to(folder).as_posix()
    where, _, name = pattern.rpartition("/")
    whole = _filled(name, glob.escape(stem), glob.escape(parent))
    if _MAGIC.search(where) or "{stem}" in where:
        return _alike(_glob(folder, _filled(pattern, glob.escape(stem), glob.escape(parent))), whole)
    at = folder / _filled(where, stem, parent)
    names, begins = look(at), _filled(_MAGIC.split(name)[0], stem, parent)
    matches = []
    for index in range(bisect_left(names, begins), len(names)):
        if not names[index].startswith(begins):
            break
        if fnmatch.fnmatchcase(names[index], whole) and is_image_name(names[index]):
            matches.append(at / names[index])
    return _alike(matches, whole)


def _alike(matches: list[Path], pattern: str) -> list[Path]:
    """Of several files, those that a last `.*` adds nothing but an ending to: of 1.tif and 1.5.tif, 1.* means one."""
    if len(matches) < 2 or not pattern.endswith(".*"):
        return matches
    return [path for path in matches if fnmatch.fnmatchcase(path.stem, pattern[:-2])] or matches


def with_labels(
    folder: Path, items: Sequence[Item], images: str | Sequence[str], labels: str | None, targets: Mapping[str, str]
) -> list[Item]:
    """The items with their label rasters, and those of further heads, by pattern."""
    look = listing()
    named = [(item.images[0], stem_of(item.images, folder, images)) for item in items]
    main = find_beside(folder, named, labels, look) if labels else [item.labels for item in items]
    more = {head: find_beside(folder, named, pattern, look) for head, pattern in targets.items()}
    return [
        replace(item, labels=main[at], targets={head: found[at] for head, found in more.items()})
        for at, item in enumerate(items)
    ]


def find_pairs(folder: Path, images: str, labels: str) -> list[tuple[Path, Path]]:
    """Every image that the pattern finds, in natural order of name, with its label raster.

    Raises:
        LabelsError: If the folder or an image's label raster is missing, or there are several for one image.
    """
    items = with_labels(folder, find_images(folder, images), images, labels, {})
    return [(item.images[0], item.labels) for item in items if item.labels]
