"""How folders of labelled images are laid out in the world, told by what is in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from geoseg.config import FolderSource, TrainConfig
from geoseg.errors import LabelsError
from geoseg.training.sources.manifest import NAME, read_manifest
from geoseg.training.sources.pairs import Item, find_images, is_image_name, listing, natural, stem_of, with_labels

_IMAGES = ("images", "image", "imgs", "img")
_LABELS = ("labels", "label", "masks", "mask", "annotations", "gt")
"""Names of the folders with images and with label rasters, the first found wins."""
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_gt", "_seg")
"""What a label raster's name has after that of its image."""
_SPLITS: Mapping[str, Sequence[str]] = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
"""Names of folders for a split."""

CITYSCAPES: Mapping[str, tuple[int, int]] = {
    "road": (7, 0),
    "sidewalk": (8, 1),
    "building": (11, 2),
    "wall": (12, 3),
    "fence": (13, 4),
    "pole": (17, 5),
    "traffic light": (19, 6),
    "traffic sign": (20, 7),
    "vegetation": (21, 8),
    "terrain": (22, 9),
    "sky": (23, 10),
    "person": (24, 11),
    "rider": (25, 12),
    "car": (26, 13),
    "truck": (27, 14),
    "bus": (28, 15),
    "train": (31, 16),
    "motorcycle": (32, 17),
    "bicycle": (33, 18),
}
"""Class -> (value in labelIds, value in labelTrainIds).

Source: Cordts et al. 2016, arXiv:1604.01685; github.com/mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""


def read_folder(folder: Path, source: FolderSource, config: TrainConfig) -> list[Item]:
    """The labelled images of a folder: by the source's patterns, else as its content tells.

    Raises:
        LabelsError: If images or label rasters are missing, or do not match.
    """
    if not folder.is_dir():
        raise LabelsError(f"data={source.folder} is not a folder. Expected a folder with images/ and labels/.")
    found = None if source.images or source.labels else _recognised(folder, config.class_names)
    images = source.images or f"{_named(folder, _IMAGES)}/*"
    if found is None:
        found = find_images(folder, images)
        if source.labels or config.main_head or not source.targets:
            found = with_labels(folder, found, images, source.labels or _label_pattern(folder, found, images), {})
    return with_labels(folder, found, images, None, source.targets) if source.targets else found


def _recognised(folder: Path, names: Sequence[str]) -> list[Item] | None:
    known: tuple[tuple[str, Callable[[], list[Item]]], ...] = (
        (NAME, lambda: read_manifest(folder)),
        ("JPEGImages", lambda: _voc(folder)),
        ("leftImg8bit", lambda: _cityscapes(folder, names)),
    )
    for name, read in known:
        if (folder / name).exists():
            return read()
    return _by_split(folder) or _side_by_side(folder)


def _named(folder: Path, names: Sequence[str]) -> str:
    """The folder of one of these names, upper case or lower, else the first name."""
    if not folder.is_dir():
        return names[0]
    there = {path.name.casefold(): path.name for path in folder.iterdir() if path.name.casefold() in names}
    return next((there[name] for name in names if name in there and (folder / there[name]).is_dir()), names[0])


def _label_pattern(folder: Path, items: Sequence[Item], images: str | Sequence[str]) -> str:
    """The pattern of label rasters in their folder, as the first image's is named."""
    labels = _named(folder, _LABELS)
    return f"{labels}/{{stem}}{_ending(folder / labels, stem_of(items[0].images, folder, images))}.*"


def _ending(folder: Path, stem: str) -> str:
    """What label rasters in a folder have after their image's name."""
    names = listing()(folder)
    return next((end for end in _ENDINGS if any(name.startswith(f"{stem}{end}.") for name in names)), "")


def _by_split(folder: Path) -> list[Item] | None:
    """`train/images` and `train/labels`, or `images/train` and `labels/train`; and the same of val."""
    items: list[Item] = []
    for split, names in _SPLITS.items():
        for name in names:
            images, labels = (
                f"{name}/{_named(folder / name, kind)}"
                if (folder / name / _named(folder / name, kind)).is_dir()
                else f"{_named(folder, kind)}/{name}"
                for kind in (_IMAGES, _LABELS)
            )
            if (folder / images).is_dir() and (folder / labels).is_dir():
                own = find_images(folder, f"{images}/*")
                pattern = f"{labels}/{{stem}}{_ending(folder / labels, own[0].images[0].stem)}.*"
                own = with_labels(folder, own, f"{images}/*", pattern, {})
                items += [replace(item, split=split, group=name) for item in own]
                break
    return items or None


def _side_by_side(folder: Path) -> list[Item] | None:
    """Images with `_mask` files beside them, in the folder or in folders below it."""
    if (folder / _named(folder, _IMAGES)).is_dir():
        return None
    files = sorted((path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()), key=natural)
    places = {path.with_suffix("").as_posix(): path for path in files if is_image_name(path.name)}
    items = []
    for place, path in places.items():
        labels = next((places[place + ending] for ending in _ENDINGS[1:] if place + ending in places), None)
        if labels:
            items.append(Item((path,), labels, group=path.parent.relative_to(folder).as_posix()))
    return items or None


def _voc(folder: Path) -> list[Item]:
    """PASCAL VOC: JPEGImages, SegmentationClass, and lists of names by split; borders are 255."""
    masks, lists = folder / "SegmentationClass", folder / "ImageSets" / "Segmentation"
    look = listing()
    images = {Path(name).stem: folder / "JPEGImages" / name for name in look(folder / "JPEGImages")}
    labels = {Path(name).stem: masks / name for name in look(masks) if is_image_name(name)}
    splits = {name: _names(lists / f"{name}.txt") for name in ("train", "val")}
    if any(splits.values()):
        wanted: list[tuple[str, str | None]] = [(stem, split) for split, stems in splits.items() for stem in stems]
    else:  # every image that has a label raster; most have none
        wanted = [
            (stem, None) for stem in _names(lists / "trainval.txt") or sorted(labels, key=lambda s: natural(Path(s)))
        ]
    if not wanted:
        raise LabelsError(f"{masks} has no label rasters. Expected one for each image of JPEGImages that is labelled.")
    for stem, _ in wanted:
        for what, found in (("image in JPEGImages", images), ("label raster in SegmentationClass", labels)):
            if stem not in found:
                raise LabelsError(f"{folder}: {stem} has no {what}. Expected one: the lists of ImageSets name it.")
    return [Item((images[stem],), labels[stem], split=split) for stem, split in wanted]


def _names(path: Path) -> list[str]:
    """The names in a list of PASCAL VOC; some have a flag after them."""
    return [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()] if path.is_file() else []


def _cityscapes(folder: Path, names: Sequence[str]) -> list[Item]:
    """Cityscapes: leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine or gtCoarse; of the test part is no truth."""
    truth = next((name for name in ("gtFine", "gtCoarse") if (folder / name).is_dir()), "gtFine")
    images = sorted(folder.glob("leftImg8bit/*/*/*_leftImg8bit.*"), key=natural)
    images = [path for path in images if path.parts[-3] in ("train", "val", "train_extra") and is_image_name(path.name)]
    if not images:
        raise LabelsError(f"{folder} has no leftImg8bit/train/<city>/*_leftImg8bit.png. Expected Cityscapes' layout.")
    meanings = {kind: _meanings(kind, names) for kind in ("TrainIds", "Ids")}
    items = []
    for image in images:
        split, city = image.parts[-3:-1]
        own = folder / truth / split / city
        begins = own / f"{image.stem.removesuffix('_leftImg8bit')}_{truth}_label"
        found = {kind: path for kind in meanings if (path := begins.with_name(f"{begins.name}{kind}.png")).is_file()}
        if not found:
            raise LabelsError(f"{image} has no {begins}Ids.png. Expected one for each image.")
        kind, labels = next(iter(found.items()))
        split = "val" if split == "val" else "train"
        items.append(Item((image,), labels, group=city, split=split, values=meanings[kind]))
    return items


def _meanings(kind: str, names: Sequence[str]) -> Mapping[int, str] | None:
    """Values of Cityscapes by the names of the run's classes; what has no class is its background, if it has one."""
    place = 1 if kind == "TrainIds" else 0
    if not any(name in CITYSCAPES for name in names[1:]):
        return None
    rest = None if names[0] in CITYSCAPES else names[0]
    meant = {ids[place]: name if name in names else rest for name, ids in CITYSCAPES.items()}
    return {value: name for value, name in meant.items() if name is not None}
