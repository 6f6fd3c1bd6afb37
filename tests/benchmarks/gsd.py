"""At which ground sample distances a model works: `python -m tests.benchmarks.gsd MODEL CITY...`.

GEOSEG_DATA names the folder of the labelled imagery, each CITY one of its drone scenes that the model has never seen.
Its pixels are averaged to larger ones, and predicted as they are, without the resampling that `geoseg predict` would
do. The table has the IoU of buildings on all labelled ground.
"""

import argparse
import tempfile
from pathlib import Path

import rasterio

from geoseg.grid import Grid
from geoseg.predict import tune_malloc
from tests.benchmarks.cities import City

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def main() -> None:
    """Print a line for each city and factor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cities", nargs="+")
    options = parser.parse_args()
    tune_malloc()
    print("| city | m per pixel | building IoU |\n|---|---|---|", flush=True)
    for name in options.cities:
        city = City.named(name)
        for factor in FACTORS:
            with tempfile.TemporaryDirectory() as folder:
                scaled = city.coarser(factor, Path(folder) / "scene.tif")
                with rasterio.open(scaled.scene) as file:
                    grid = Grid(file.shape, file.transform, file.crs)
                found = scaled.predicted(options.model, resample=False)
                print(f"| {name} | {grid.gsd:.3f} | {scaled.iou(found, scaled.known):.3f} |", flush=True)


if __name__ == "__main__":
    main()
