"""What geoseg writes, opened in the real QGIS: valid, in place, in the class's colours, with the class's names."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from geoseg.checkpoint import ClassInfo
from geoseg.grid import Grid
from geoseg.qgis import class_raster_style, polygon_style
from geoseg.raster import RasterProfile, write_cog
from geoseg.vectors import layer_name, polygonize, write_layers

pytestmark = pytest.mark.qgis

QGIS_PYTHON = os.environ.get("GEOSEG_QGIS_PYTHON", "/usr/bin/python3")
CLASSES = {
    0: ("background", "#f0f0e8"),
    1: ("building", "#e34a33"),
    2: ("road", "#5a5a5a"),
    3: ("water & ice", "#3182bd"),
}
GRID = Grid(
    shape=(300, 400),
    transform=Affine(0.15, 0, 500000, 0, -0.15, 6650000),
    crs=rasterio.CRS.from_epsg(32637).to_wkt(version="WKT2_2019"),
)


def qgis(*arguments, folder):
    """Run QGIS's Python without a screen, a profile of the user's, or anything of the virtual environment."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "GDAL", "PROJ"))
    }
    env = {**kept, "QT_QPA_PLATFORM": "offscreen", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run([QGIS_PYTHON, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)


def town():
    """Labels of two roads, a pond, and buildings of which one has a courtyard; a black collar in one corner."""
    line, box = shapely.linestrings, shapely.box
    roads = shapely.union_all([line([(0, 210), (400, 150)]).buffer(9), line([(190, 0), (230, 300)]).buffer(7)])
    court = shapely.difference(box(40, 50, 110, 120), box(62, 72, 88, 98))
    houses = [shapely.affinity.rotate(box(x, y, x + 34, y + 24), 17) for x, y in ((260, 40), (310, 60), (60, 240))]
    shapes = [(roads, 2), (court, 1), *((house, 1) for house in houses), (shapely.Point(320, 240).buffer(38), 3)]
    labels = rasterize(shapes, GRID.shape, dtype=np.uint8)
    labels[np.add.outer(np.arange(300), np.arange(400)[::-1]) < 60] = 255
    return labels


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What QGIS says of the files geoseg wrote, and the folder with its pictures."""
    folder = tmp_path_factory.mktemp("qgis")
    found = Path(QGIS_PYTHON).exists() and qgis("-c", "import qgis.core", folder=folder).returncode == 0
    if not found and not os.environ.get("CI"):
        pytest.skip(f"{QGIS_PYTHON} cannot import qgis.core (Debian: apt-get install python3-qgis)")
    vectors, *rasters = folder / "town.gpkg", folder / "styled.tif", folder / "bare.tif"
    classes = tuple(ClassInfo(name=name, color=color) for name, color in CLASSES.values())
    for path in rasters:
        write_cog(path, [(GRID.window, town())], RasterProfile(grid=GRID, classes=classes))
    (folder / "styled.qml").write_text(class_raster_style(CLASSES), encoding="utf-8")
    names = {value: name for value, (name, _) in CLASSES.items() if value}
    layers = {layer_name(name): frame for name, frame in polygonize(rasters[0], names).items()}
    write_layers(vectors, layers, styles={layer_name(name): polygon_style(color) for name, color in CLASSES.values()})
    pictures = Path(os.environ.get("GEOSEG_QGIS_PICTURES", folder))
    probe = Path(__file__).with_name("qgis_probe.py")
    run = qgis(*map(str, (probe, pictures, vectors, *rasters)), folder=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), pictures


@pytest.mark.parametrize("name", ["styled", "bare"])
def test_raster(opened, name):
    found = opened[0]["rasters"][name]
    assert (found["valid"], found["crs"], found["renderer"], found["nodata"]) == (True, "EPSG:32637", "paletted", 255)
    left, bottom, right, top = GRID.bounds
    assert found["extent"] == pytest.approx([left, bottom, right, top], abs=1e-6)
    listed = [found["classes"][str(value)] for value in CLASSES]
    assert listed == [list(pair) for pair in CLASSES.values()]


def test_only_the_style_beside_it_keeps_unused_values_out_of_the_legend(opened):
    """A TIFF colour table always has 256 entries, and QGIS 3.22 lists them all."""
    assert {name: len(raster["classes"]) for name, raster in opened[0]["rasters"].items()} == {"styled": 4, "bare": 256}


@pytest.mark.parametrize(
    ("layer", "value", "features"), [("buildings", 1, 4), ("road_surfaces", 2, 1), ("water & ice", 3, 1)]
)
def test_vectors(opened, layer, value, features):
    found = opened[0]["vectors"][layer]
    assert (found["valid"], found["crs"], found["renderer"]) == (True, "EPSG:32637", "singleSymbol")
    assert (found["features"], found["all valid"], found["labels"]) == (features, True, False)
    assert found["color"] == CLASSES[value][1]
    assert found["alpha"] < 255
    assert found["outline"] < found["color"]
    left, bottom, right, top = GRID.bounds
    west, south, east, north = found["extent"]
    assert left <= west < east <= right
    assert bottom <= south < north <= top


def test_only_layers_with_shapes_are_drawn(opened):
    assert list(opened[0]["vectors"]) == ["buildings", "road_surfaces", "water & ice"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures(opened):
    """The picture of the raster has the classes' colours where the classes are, and nodata shows the paper."""
    labels = town()
    with rasterio.open(opened[1] / "raster.png") as picture:
        # 800 x 600: two by two screen pixels for one of the raster.
        drawn = picture.read([1, 2, 3])[:, 1::2, 1::2]
    for value, color in [*((value, color) for value, (_, color) in CLASSES.items()), (255, "#ffffff")]:
        expected = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        share = np.equal(drawn[:, labels == value].T, expected).all(axis=1).mean()
        assert share > 0.98, (value, share)
