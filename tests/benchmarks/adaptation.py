"""Local adaptation: IoU against drawn buildings, `python -m tests.benchmarks.adaptation MODEL CITY -o RUNS`.

GEOSEG_DATA names the folder of the labelled imagery, CITY one of its scenes (`banepa_centre_z19`, `rio_west`), MODEL a
checkpoint that has never seen it, such as the run of the fold of configs/folds.yaml that leaves it out. For N = 5, 20,
50 and 200 and each draw, squares round buildings of the city grow until ten of them have their middle in each, N in
all: they are `drawn.gpkg`, the squares are `done.gpkg`, and the model goes on learning from them by the command of the
README, in RUNS/N-DRAW. Before and after are scored on the same ground: what is labelled in the city, less the squares
and 10 m round them. RUNS gets scores.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from geoseg.predict import tune_malloc
from tests.benchmarks.cities import City

COUNTS = (5, 20, 50, 200)
MARGIN_M = 10.0
"""Ground round the squares that is not scored, in metres."""


def learn(city: City, model: Path, run: Path, more: list[str]) -> Path:
    """Go on learning, as the README says; the checkpoint."""
    about = ["--labels", str(run / "drawn.gpkg"), "--labelled-area", str(run / "done.gpkg"), "--init", str(model)]
    call = [sys.executable, "-c", "from geoseg.cli.main import main; main()", "train", str(city.scene), *about]
    subprocess.run(
        [*call, "-o", str(run / "run"), "--overwrite", "--quiet", *more], check=True, stdout=subprocess.DEVNULL
    )
    return run / "run" / "model.safetensors"


def main() -> None:
    """Draw, learn, score, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("city")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--more", default="", help="further options of geoseg train")
    options = parser.parse_args()
    tune_malloc()
    city = City.named(options.city)
    before = city.predicted(options.model)
    print(f"0 buildings: IoU {city.iou(before, city.known):.3f} on all labelled ground", flush=True)
    rows: list[dict[str, float]] = []
    for count in options.counts:
        for seed in range(options.draws):
            if (found := city.draw(count, seed)) is None:
                continue
            run = options.output / f"{count}-{seed}"
            run.mkdir(parents=True, exist_ok=True)
            for shapes, name in zip(found, ("drawn", "done"), strict=True):
                shapes.to_file(run / f"{name}.gpkg")
            cpu, wall = sum(os.times()[2:4]), time.monotonic()
            model = learn(city, options.model, run, options.more.split())
            seconds = {"cpu_s": sum(os.times()[2:4]) - cpu, "wall_s": time.monotonic() - wall}
            metric = city.buildings.estimate_utm_crs()
            ground = city.known & ~city.inside(found[1].to_crs(metric).buffer(MARGIN_M).to_crs(city.buildings.crs))
            scores = {"before": city.iou(before, ground), "after": city.iou(city.predicted(model), ground)}
            rows.append({"buildings": count, "draw": seed, **scores, **seconds})
            print(
                f"{count} buildings, draw {seed}: IoU {scores['before']:.3f} -> {scores['after']:.3f}, "
                f"{seconds['cpu_s']:.0f} CPU s",
                flush=True,
            )
            (options.output / "scores.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
