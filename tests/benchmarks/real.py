"""Outlines on real predictions: `python -m tests.benchmarks.real MODEL SCENE...`.

GEOSEG_DATA names the folder of the labelled imagery, SCENE one of it (`kampala_a`), MODEL a checkpoint that has never
seen it, such as the run of the fold of configs/folds.yaml that leaves it out. The model predicts each scene once, with
probabilities; the buildings are vectorized as the pixels' own outlines, fitted, and fitted without splitting what
touches, and each is scored against the labels.
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
    parser.add_argument("model")
    parser.add_argument("scenes", nargs="+", metavar="SCENE")
    options = parser.parse_args()
    tune_malloc()
    data, folds = Path(os.environ["GEOSEG_DATA"]), yaml.safe_load(FOLDS.read_text())
    windows = folds["labelled"] | {"rio_west": folds["rio"]["south"]}
    print(f"| ground | outlines | {' | '.join(FIELDS.values())} |\n|---|---|{'---:|' * len(FIELDS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.scenes:
            (scene,) = data.glob(f"*/{name}.tif")
            (labels,) = scene.parent.glob(f"{name}_buildings*.geojson")
            for way, row in rows(scene, labels, windows[name], options.model, Path(folder)).items():
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
