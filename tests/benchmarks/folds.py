"""The built-in models on ground they have not seen: `python -m tests.benchmarks.folds CONFIG -o RUNS [FOLD...]`.

GEOSEG_DATA names the folder of the labelled imagery. For each fold of configs/folds.yaml a model is trained by CONFIG
without what the fold leaves out; its run folder is RUNS/FOLD. A run that is there is continued, or only scored. RUNS
gets scores.json, with all folds that were ever scored into it.

"City" is a place that the run has not seen, "dubai" are whole tiles of it, "rio" is the other half of a scene, or all
of it. "Held" are strips beside learnt ground, on which the run has chosen its epoch and its temperature.
"""

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rasterio.errors
import yaml

from geoseg import load_config, train_model
from geoseg.compare.bootstrap import FEW
from geoseg.config import TrainConfig
from geoseg.config.reading import parse_change
from geoseg.predict import tune_malloc
from geoseg.settings import Settings
from tests.benchmarks.ground import CLASSES, MOVED, Tally, cut, grounds, score

FOLDS = Path(__file__).parents[2] / "configs" / "folds.yaml"
Plain = dict[str, Any]
Rows = dict[str, Plain]
"""What a table says of each ground."""


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


def table(scores: dict[str, Rows]) -> str:
    """Markdown: of each fold's grounds IoU with its interval, calibration and objects, and the means over a kind.

    An interval is of draws of tiles of 256 pixels, and left out where there are so few that it would be too narrow.
    """
    lines = [
        "| fold | ground | building IoU | road IoU | ECE | F1 of buildings (of how many) | boundary IoU |",
        "|---|---|---|---|---|---|---|",
    ]
    for fold, rows in scores.items():
        for name, row in rows.items():
            ious = [_iou(row.get(kind)) for kind in CLASSES[1:]]
            f1 = f"{row['f1']:.3f} ({row['reference']:.0f})" if "f1" in row else ""
            cells = [*ious, _figure(_ece(row)), f1, _figure(row.get("boundary_iou"))]
            lines.append(f"| {fold} | {name} | {' | '.join(cells)} |")
    for kind, grounds_of in _kinds(scores).items():
        ious = [_mean(row[of]["iou"] for row in grounds_of if of in row) for of in CLASSES[1:]]
        rest = [
            _mean(map(_ece, grounds_of)),
            *(_mean(row.get(of) for row in grounds_of) for of in ("f1", "boundary_iou")),
        ]
        lines.append(f"| | mean of {len(grounds_of)} {kind} | {' | '.join(map(_figure, [*ious, *rest]))} |")
    return "\n".join(lines)


def _kinds(scores: dict[str, Rows]) -> dict[str, list[Plain]]:
    """All grounds of a kind; of a scene whose labels had to be moved, those with the labels moved."""
    found: dict[str, list[Plain]] = {}
    for rows in scores.values():
        for name, row in rows.items():
            if f"{name}{MOVED}" not in rows:
                found.setdefault(name.split()[0], []).append(row)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ece(row: Plain) -> float | None:
    """Of the class that is calibrated worst."""
    return max((row[of]["ece"] for of in CLASSES[1:] if of in row and row[of]["ece"] is not None), default=None)


def _iou(scores: Plain | None) -> str:
    if not scores or scores["iou"] is None:
        return ""
    if scores["tiles"] < FEW:
        return _figure(scores["iou"])
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
    if options.model and len(options.folds) != 1:
        parser.error("--model has seen what all folds but its own leave out. Name that one fold.")
    tune_malloc()
    # dubai has no georeference, and needs none here.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    data, folds = Path(os.environ["GEOSEG_DATA"]), yaml.safe_load(FOLDS.read_text())
    config = load_config(options.config, dict(map(parse_change, options.changes)))
    for folder in (options.output, options.pictures):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    kept = options.output / "scores.json"
    scores: dict[str, Rows] = json.loads(kept.read_text()) if kept.exists() else {}
    settings = Settings(tta=options.tta)
    for fold in options.folds or folds["folds"]:
        model = options.model or train_model(without(config, fold, folds), options.output / fold, resume=True)
        rows: dict[str, Tally] = {}
        with tempfile.TemporaryDirectory() as cuts:
            for index, ground in enumerate(grounds(data, folds, fold)):
                tally = rows.setdefault(ground.row, Tally())
                score(cut(ground, Path(cuts), index), model, tally, settings, options.pictures)
        scores[fold] = {name: row.to_dict() for name, row in sorted(rows.items())}
        kept.write_text(json.dumps(scores, indent=1))
    print(table(scores))


if __name__ == "__main__":
    main()
