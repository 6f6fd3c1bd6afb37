"""Draw a synthetic town, predict it with the built-in model, and score the result: geoseg from Python.

python examples/predict_a_town.py [FOLDER]
"""

import sys
from pathlib import Path

import geoseg
from geoseg.synthetic import DEMO_SEED
from geoseg.synthetic.files import write_town


def main(folder: Path, side: int = 768) -> None:
    """Everything lands in `folder`; files from an earlier run are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    town = geoseg.draw_town((side, side), gsd=0.3, seed=DEMO_SEED + 7)
    files = write_town(folder, town, overwrite=True)

    products = geoseg.Products(labels=folder / "classes.tif", vectors=folder / "classes.gpkg")
    done = geoseg.predict_scene(files.scene, "unet", products=products, overwrite=True)
    print("polygons:", done.features)
    print(geoseg.evaluate_prediction(products.labels, files.labels, layer="labels").table())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "town"))
