"""Outlines on real predictions: `python -m tests.benchmarks.real`; GEOSEG_DATA is the folder of the imagery.

The model predicts each scene once, with probabilities; the buildings are vectorized as the pixels' own outlines,
fitted, and fitted without splitting what touches, and each is scored against the labels. By default on windows that a
built-in model did not learn on, as configs/folds.yaml names them.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
import shapely
import yaml

from geoseg.evaluate.vectors import evaluate_vectors
from geoseg.pipeline import Products, predict_scene
from geoseg.predict import tune_malloc
from geoseg.vectors import vectorize_raster
from geoseg.vectors.options import OutlineOptions
from tests.benchmarks.folds import FOLDS

FIELDS = {"f1": "F1", "mean_iou": "IoU", "polis_m": "PoLiS m", "c_iou": "C-IoU", "boundary_iou": "B-IoU"}
WAYS = {
    "raw": OutlineOptions(raw=True, min_area_m2=5.0),
    "walls": OutlineOptions(),
    "walls, nothing split": OutlineOptions(split_touching=False),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--whole", action="store_true", help="all labelled ground, also what the model has learnt on")
    options = parser.parse_args()
    tune_malloc()
    data, folds = Path(os.environ["GEOSEG_DATA"]), yaml.safe_load(FOLDS.read_text())
    windows = dict(folds["labelled"] if options.whole else folds["held"])
    windows["rio_west"] = folds["labelled"]["rio_west"] if options.whole else folds["rio"]["south"]
    print(f"| ground | outlines | {' | '.join(FIELDS.values())} |\n|---|---|{'---:|' * len(FIELDS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, box in windows.items():
            (scene,) = data.glob(f"*/{name}.tif")
            (labels,) = scene.parent.glob(f"{name}_buildings*.geojson")
            for way, row in rows(scene, labels, box, options.model, Path(folder)).items():
                print(f"| {name} | {way} | {' | '.join(row)} |", flush=True)


def rows(scene: Path, labels: Path, box: list[int], model: str, folder: Path) -> dict[str, list[str]]:
    """The scores of each way."""
    products = Products(labels=folder / f"{scene.stem}.tif", probabilities=folder / f"{scene.stem}_p.tif")
    predict_scene(scene, model, products=products)
    area = folder / f"{scene.stem}_area.geojson"
    write_window(scene, box, area)
    found = {}
    for way, outlines in WAYS.items():
        shapes = folder / f"{scene.stem}.gpkg"
        vectorize_raster(
            products.labels, shapes, probabilities=products.probabilities, options=outlines, overwrite=True
        )
        scores = evaluate_vectors(shapes, labels, classes=["building"], labelled_area=area).scores["building"].objects
        found[way] = [f"{getattr(scores, field):.3f}" for field in FIELDS]
    return found


def write_window(scene: Path, box: list[int], path: Path) -> None:
    """A window of a scene, [col0, row0, col1, row1], as a polygon on the map."""
    import geopandas as gpd

    with rasterio.open(scene) as file:
        corners = np.array([file.transform * xy for xy in (box[:2], box[2:])])
        gpd.GeoSeries([shapely.box(*corners.min(axis=0), *corners.max(axis=0))], crs=file.crs).to_file(path)


if __name__ == "__main__":
    main()
