"""The manifest of a folder of tiles: which image goes with which labels, from which scene, for which split."""

import csv
from pathlib import Path

from geoseg.errors import LabelsError
from geoseg.training.sources.pairs import Item

NAME = "manifest.csv"
"""As `geoseg tile` writes it."""

_SPLITS = ("train", "val", "none")


def read_manifest(folder: Path) -> list[Item]:
    """The tiles of a manifest, in its order; paths start from its folder.

    Columns `image` and `labels` are needed; `scene` and `split` (train, val, or none for tiles left out) are used.

    Raises:
        LabelsError: If it cannot be read, lacks a column or a file, or has an unknown split.
    """
    path = folder / NAME
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise LabelsError(f"{path} cannot be read ({err}). Expected a CSV file in UTF-8.") from err
    if missing := [name for name in ("image", "labels") if not rows or name not in rows[0]]:
        what = f"has no column {missing[0]!r}" if rows else "has no tiles"
        raise LabelsError(f"{path} {what}. Expected a row with image and labels for each tile, as geoseg tile writes.")
    return [_item(path, number, row) for number, row in enumerate(rows, start=2)]


def _item(path: Path, number: int, row: dict[str, str | None]) -> Item:
    split = (row.get("split") or "").strip() or None
    if split and split not in _SPLITS:
        raise LabelsError(f"{path} line {number}: split={split!r} is unknown. Expected {', '.join(_SPLITS)}.")
    image, labels = (path.parent / (row[name] or "").strip() for name in ("image", "labels"))
    for name, file in (("image", image), ("labels", labels)):
        if file == path.parent or not file.is_file():
            raise LabelsError(
                f"{path} line {number}: {name}={row[name]!r} is not a file. Expected paths that start from the "
                "manifest's folder."
            )
    return Item((image,), labels, group=(row.get("scene") or "").strip(), split=split)
