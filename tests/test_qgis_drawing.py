"""Scenes without a georeference in the real QGIS: what is predicted lies on them, what is drawn on them is found."""

import json
import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from checkpoints import write_checkpoint
from rasterio.features import rasterize
from rasters import write_raster
from test_qgis import QGIS_PYTHON, qgis

from geoseg.parallel import Inline
from geoseg.pipeline import Products, predict_scene
from geoseg.scene import Scene
from geoseg.targets import read_labels

pytestmark = [
    pytest.mark.qgis,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

SHAPE = (90, 130)
PRODUCTS = {"labels": "labels.tif", "probabilities": "probabilities.tif", "vectors": "vectors.gpkg"}


def scene_in(folder, kind):
    """Bright blocks on dark ground, no two rows of them alike."""
    blocks = np.random.default_rng(5).random((9, 13)) < 0.4
    data = np.where(blocks.repeat(10, 0).repeat(10, 1), 225, 25).astype(np.uint8)[None].repeat(3, 0)
    if kind == "stated":
        return write_raster(folder / "scene.tif", data, crs=None, transform=Affine.identity())
    driver = {"tif": "GTiff", "jpg": "JPEG", "png": "PNG"}[kind]
    size = {"count": 3, "height": SHAPE[0], "width": SHAPE[1], "dtype": "uint8"}
    with rasterio.open(folder / f"scene.{kind}", "w", driver=driver, **size) as dst:
        dst.write(data)
    return folder / f"scene.{kind}"


@pytest.fixture(scope="module", params=["tif", "jpg", "png", "stated"])
def opened(request, tmp_path_factory):
    """What QGIS says of a scene and of its prediction, the path of the scene, and whether its rows run upwards."""
    folder = tmp_path_factory.mktemp("qgis")
    found = Path(QGIS_PYTHON).exists() and qgis("-c", "import qgis.core", folder=folder).returncode == 0
    if not found and not os.environ.get("CI"):
        pytest.skip(f"{QGIS_PYTHON} cannot import qgis.core (Debian: apt-get install python3-qgis)")
    scene = scene_in(folder, request.param)
    model = write_checkpoint(folder / "tiny.safetensors", cell_side=64, seed=6)  # of which all layers have shapes
    products = Products(**{name: folder / file for name, file in PRODUCTS.items()})
    predict_scene(scene, model, products=products, backend=Inline())
    pictures = Path(os.environ.get("GEOSEG_QGIS_PICTURES", folder))
    probe = Path(__file__).with_name("qgis_drawing_probe.py")
    run = qgis(*map(str, (probe, pictures, scene, *(folder / file for file in PRODUCTS.values()))), folder=folder)
    assert run.returncode == 0, run.stderr
    (pictures / "drawn.gpkg").rename(folder / "drawn.gpkg")
    return json.loads(run.stdout), scene, request.param == "stated"


def test_a_prediction_lies_on_the_scene(opened):
    said, scene, upwards = opened
    height, width = SHAPE
    extent = said[scene.name]
    assert extent == ([0, 0, width, height] if upwards else [0, -height, width, 0])
    assert said["labels.tif"] == said["probabilities.tif"] == extent
    layers = said["vectors.gpkg"]
    assert set(layers) == {"buildings", "road_surfaces", "roads", "road_nodes"}
    for name in ("buildings", "road_surfaces"):
        left, bottom, right, top = layers[name]
        assert extent[0] <= left < right <= extent[2]
        assert extent[1] <= bottom < top <= extent[3]


def test_shapes_lie_on_the_pixels_they_outline(opened):
    """By the extent alone, they could be upside down."""
    said, scene, upwards = opened
    left, _, _, top = said[scene.name]
    with rasterio.open(scene.with_name("labels.tif")) as src:
        shown = src.read(1)[:: -1 if upwards else 1]
    frame = geopandas.read_file(scene.with_name("vectors.gpkg"), layer="road_surfaces")
    burnt = rasterize(frame.geometry, SHAPE, transform=Affine(1, 0, left, 0, -1, top)) == 1
    assert 0.1 < burnt.mean() < 0.9
    assert np.mean(burnt == (shown == 2)) > 0.95
    assert np.mean(burnt[::-1] == (shown == 2)) < 0.8


def test_what_is_drawn_on_the_scene_is_found(opened):
    scene = opened[1]
    with Scene.open(scene) as src:
        bright = src.read(src.grid.window).data[0] > 128
        drawn = read_labels(scene.with_name("drawn.gpkg"), grid=src.grid, class_names=("background", "building"))
        np.testing.assert_array_equal(drawn.target(src.grid.window) == 1, bright)
