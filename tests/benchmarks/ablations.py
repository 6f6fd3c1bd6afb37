"""What moves the score: `python -m tests.benchmarks.ablations -o RUNS [NAME...]`, at equal budget, with a spread.

Each line changes one thing of configs/unet-small.yaml and trains the fold of configs/folds.yaml that leaves Banepa
out, for a short run of `--steps` steps, with three seeds; or it trains nothing, and predicts otherwise what the runs
"as configured" have learnt. GEOSEG_DATA names the folder of the labelled imagery. RUNS/NAME-SEED are the run folders;
those that are there are continued. RUNS gets scores.json; what is in it is not run again. The table has all that was
run into this folder.
"""

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.errors
import yaml

from geoseg import load_config, train_model
from geoseg.config import TrainConfig
from geoseg.predict import tune_malloc
from geoseg.settings import DEFAULTS, Settings
from tests.benchmarks.folds import FOLDS, without
from tests.benchmarks.ground import MOVED, Tally, cut, grounds, score

FOLD = "banepa"
CONFIG = FOLDS.with_name("unet-small.yaml")
EPOCH = 250
"""Steps between two validations."""

Plain = dict[str, Any]
Change = Callable[[Plain], None]


def put(key: str, value: object) -> Change:
    """Set one key, its parts with dots between."""

    def change(config: Plain) -> None:
        *path, last = key.split(".")
        for part in path:
            config = config.setdefault(part, {})
        config[last] = value

    return change


def sources(of: str, change: Callable[[Plain], Plain | None]) -> Change:
    """Change the sources in whose path, or whose kind, a word is; None leaves one out."""

    def every(config: Plain) -> None:
        found = [change(s) if of in s or of in s.get("scene", "") else s for s in config["data"]["sources"]]
        config["data"]["sources"] = [source for source in found if source]

    return every


def contact(config: Plain) -> None:
    """A class of its own where buildings touch."""
    config["classes"].append({"name": "contact", "color": "#4363d8"})
    for source in config["data"]["sources"]:
        if source.get("class") == "building":
            source |= {"contact": "contact", "known": ["building", "contact"]}


def photometric(factor: float) -> Change:
    """Random changes of brightness, colour and sharpness by a factor."""
    names = ("brightness", "contrast", "gamma", "color", "noise", "blur")

    def change(config: Plain) -> None:
        for name in names:
            config["augmentation"][name] = min(0.9, factor * config["augmentation"][name])

    return change


def without_keys(*keys: str) -> Callable[[Plain], Plain]:
    """A source less some keys."""
    return lambda source: {key: value for key, value in source.items() if key not in keys}


FRESH = (put("pretrained", None), put("optimizer.encoder_lr", 1.0))
CHANGES: dict[str, tuple[Change, ...]] = {
    "as configured": (),
    "loss cross_entropy": (put("loss", "cross_entropy:1"),),
    "loss focal + dice": (put("loss", "focal:1,dice:1"),),
    "loss cross_entropy + lovasz": (put("loss", "cross_entropy:1,lovasz:1"),),
    "loss cross_entropy + tversky": (put("loss", "cross_entropy:1,tversky:1"),),
    "contact class": (contact,),
    "no EMA": (put("optimizer.ema", 0.0),),
    "photometric augmentation x 0": (photometric(0),),
    "photometric augmentation x 2": (photometric(2),),
    "no free rotation": (put("augmentation.rotation", 0.0),),
    "fresh encoder": FRESH,
    "fresh encoder, half as wide": (*FRESH, put("arch_args.width", 32)),
    "fresh encoder, twice as wide": (*FRESH, put("arch_args.width", 128)),
    "no synthetic towns": (sources("synthetic", lambda _: None),),
    "Nairobi as drawn": (sources("nairobi", without_keys("shift")),),
    "Nairobi as drawn, not down-weighted": (sources("nairobi", lambda s: without_keys("shift")(s) | {"weight": 1.2}),),
    "no Nairobi": (sources("nairobi", lambda _: None),),
    "what is not drawn is background": (sources("known", lambda s: s | {"known": ["building", "road"]}),),
    "stride 1 (4 x the work)": (put("arch_args.shuffle", 1), put("arch_args.encoder_depth", 4)),
    "predicted with --tta": (),
}
SETTINGS = {"predicted with --tta": Settings(tta=True)}
"""Lines that train nothing of their own."""


def plain(config: TrainConfig) -> Plain:
    """The configuration as what its YAML file would hold."""
    return config.model_dump(mode="json", by_alias=True, exclude_none=True)


def figures(model: Path, fold: Plain, data: Path, cuts: Path, settings: Settings) -> dict[str, float]:
    """Scores of one run: means over grounds of a kind."""
    rows: dict[str, Tally] = {}
    for index, ground in enumerate(grounds(data, fold, FOLD)):
        score(cut(ground, cuts, index), model, rows.setdefault(ground.row, Tally()), settings)
    found = {name: row.to_dict() for name, row in rows.items()}

    def mean(kind: str, of: Callable[[Plain], float]) -> float:
        names = [name for name in found if name.startswith(kind) and f"{name}{MOVED}" not in found]
        return float(np.mean([of(found[name]) for name in names]))

    return {
        "unseen city": mean("city", lambda row: row["building"]["iou"]),
        "held strips": mean("held", lambda row: row["building"]["iou"]),
        "Rio": mean("rio", lambda row: row["building"]["iou"]),
        "Dubai, roads": mean("dubai", lambda row: row["road"]["iou"]),
        "F1 of objects": mean("city", lambda row: row["f1"]),
        "ECE": mean("city", lambda row: row["building"]["ece"]),
    }


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean over the seeds and, in brackets, the standard deviation."""
    names = list(next(iter(scores.values()))[0])
    lines = [f"| | seeds | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for label, runs in scores.items():
        cells = [_cell([run[name] for run in runs]) for name in names]
        lines.append(f"| {label} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Iterable[float]) -> str:
    found = np.array(list(values))
    return f"{found.mean():.3f}" + (f" ({found.std(ddof=1):.3f})" if len(found) > 1 else "")


def main() -> None:
    """Train what is not trained yet, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", choices=[*CHANGES, []], metavar="NAME", help=f"default: all of {list(CHANGES)}"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    if options.steps < EPOCH or options.steps % EPOCH:
        parser.error(f"--steps {options.steps} is no multiple of {EPOCH}")
    tune_malloc()
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # dubai needs none
    data, folds = Path(os.environ["GEOSEG_DATA"]), yaml.safe_load(FOLDS.read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "scores.json"
    scores: dict[str, dict[str, dict[str, float]]] = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as cuts:
        for seed in options.seeds:
            for name in options.names or CHANGES:
                if str(seed) in scores.get(name, {}):
                    continue
                config = plain(without(load_config(CONFIG), FOLD, folds))
                for change in CHANGES[name]:
                    change(config)
                config |= {"seed": seed, "steps_per_epoch": EPOCH, "epochs": options.steps // EPOCH}
                learnt = next(iter(CHANGES)) if name in SETTINGS else name
                run = options.output / f"{learnt}-{seed}".replace(" ", "_")
                model = train_model(TrainConfig.model_validate(config), run, resume=True)
                scores.setdefault(name, {})[str(seed)] = figures(
                    model, folds, data, Path(cuts), SETTINGS.get(name, DEFAULTS)
                )
                kept.write_text(json.dumps(scores, indent=1))
                print(name, seed, {k: round(v, 3) for k, v in scores[name][str(seed)].items()}, flush=True)
    print(table({name: list(scores[name].values()) for name in CHANGES if name in scores}))


if __name__ == "__main__":
    main()
