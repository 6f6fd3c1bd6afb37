"""The built-in models on ground they have not seen: `python -m tests.benchmarks.folds CONFIG -o RUNS [FOLD...]`.

GEOSEG_DATA names the folder of the labelled imagery. For each fold of configs/folds.yaml a model is trained by CONFIG
without what the fold leaves out; its run folder is RUNS/FOLD. A run that is there is continued, or only scored. RUNS
gets scores.json. A line of the table pools the pixels of all folds that score the same ground.
"""

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import rasterio.errors
import yaml

from geoseg import load_config, train_model
from geoseg.config import TrainConfig
from geoseg.config.reading import parse_change
from geoseg.predict import tune_malloc
from geoseg.settings import Settings
from tests.benchmarks.ground import CLASSES, MOVED, Tally, cut, grounds, score

FOLDS = Path(__file__).parents[2] / "configs" / "folds.yaml"


def without(config: TrainConfig, fold: str, folds: dict[str, Any]) -> TrainConfig:
    """The configuration, less what the fold leaves out; its validation ground is what no fold learns on."""
    out = folds["folds"][fold]
    sources: list[dict[str, Any]] = []
    for source in config.model_dump(mode="json", by_alias=True, exclude_none=True)["data"]["sources"]:
        name = Path(source["scene"]).stem if "scene" in source else ""
        in_rio = name == "rio_west" or "rio" in Path(source.get("scene", "")).parent.name
        if name in out["out"] or (in_rio and out["rio"] == "all"):
            continue
        if name == "rio_west":
            (left,) = (half for half in ("north", "south") if half != out["rio"])
            sources.append(source | {"train": [folds["rio"][left]], "val": []})
        elif name in folds["labelled"]:
            sources.append(source | {"train": [folds["labelled"][name]], "val": [folds["held"][name]]})
        elif "folder" in source:
            tiles = [f"tile{k}" for k in (1, 3, 4, 5, 6, 7) if f"tile{k}" not in out["dubai"]]
            digits = "".join(tile.removeprefix("tile") for tile in tiles)
            sources.append(source | {"images": f"tile[{digits}]/part?.jpg"})
        else:
            sources.append(source)
    given = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return TrainConfig.model_validate(given | {"data": given["data"] | {"sources": sources}})


def pooled(rows: dict[str, Tally]) -> dict[str, Tally]:
    """The pixels of all ground of a kind together, and the mean of its objects' scores.

    Of a scene whose labels had to be moved those that were, of which there are no objects' scores.
    """
    found: dict[str, Tally] = {}
    for name, tally in rows.items():
        if f"{name}{MOVED}" not in rows:
            found.setdefault(f"all of {name.split()[0]}", Tally()).add(tally)
    return found


def table(rows: dict[str, Tally]) -> str:
    """Markdown: IoU of each class with its 95 % interval over tiles of 256 pixels, calibration, and objects."""
    lines = ["| ground | building IoU | road IoU | ECE | F1 of buildings | boundary IoU |", "|---|---|---|---|---|---|"]
    for name, tally in rows.items():
        found = tally.to_dict()
        cells = [_iou(found.get(kind)) for kind in CLASSES[1:]]
        errors = [found[kind]["ece"] for kind in CLASSES[1:] if kind in found]
        figures = [max((e for e in errors if e is not None), default=None), found.get("f1"), found.get("boundary_iou")]
        lines.append(f"| {name} | {' | '.join([*cells, *map(_figure, figures)])} |")
    return "\n".join(lines)


def _iou(scores: dict[str, Any] | None) -> str:
    if not scores or scores["iou"] is None:
        return ""
    low, high = scores["interval"]
    return f"{scores['iou']:.3f} ({low:.2f}-{high:.2f})"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    """Train what is not trained yet, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folds", nargs="*", help="default: all")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="changes", help="KEY=VALUE, as geoseg train")
    parser.add_argument("--model", help="score this one, and train nothing")
    parser.add_argument("--tta", action="store_true", help="predict with test-time augmentation")
    parser.add_argument("--pictures", type=Path, help="folder for image, target and prediction side by side")
    options = parser.parse_args()
    tune_malloc()
    # dubai has no georeference, and needs none here.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    data, folds = Path(os.environ["GEOSEG_DATA"]), yaml.safe_load(FOLDS.read_text())
    config = load_config(options.config, dict(map(parse_change, options.changes)))
    for folder in (options.output, options.pictures):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Tally] = {}
    settings = Settings(tta=options.tta)
    for fold in options.folds or folds["folds"]:
        model = options.model or train_model(without(config, fold, folds), options.output / fold, resume=True)
        with tempfile.TemporaryDirectory() as cuts:
            for index, ground in enumerate(grounds(data, folds, fold)):
                tally = rows.setdefault(ground.row, Tally())
                score(cut(ground, Path(cuts), index), model, tally, settings, options.pictures)
    rows |= pooled(rows)
    (options.output / "scores.json").write_text(
        json.dumps({name: row.to_dict() for name, row in rows.items()}, indent=1)
    )
    print(table(dict(sorted(rows.items()))))


if __name__ == "__main__":
    main()
