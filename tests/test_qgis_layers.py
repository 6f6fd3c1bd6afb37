"""All layers in all formats, opened in the real QGIS: in place, styled, roads as wide as they are on the ground."""

import json
import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from test_qgis import QGIS_PYTHON, qgis

from geoseg.outputs import Outputs
from geoseg.qgis import layer_style
from geoseg.vectors.formats import vector_files, write_vectors

pytestmark = [
    pytest.mark.qgis,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

COLORS = {
    "buildings": "#e34a33",
    **dict.fromkeys(("road_surfaces", "roads", "road_nodes"), "#5a5a5a"),
    "water": "#3182bd",
}
CORNER = np.array([500000.0, 6650000.0])
WIDTHS = [12.0, 6.0, 6.0, 4.0]
LINES = [
    [(0, 90), (80, 90)],
    [(80, 90), (240, 90)],
    [(80, 90), (80, 0)],
    [(80, 90), (95, 140), (170, 175)],
]
FOOT = 0.3048006096  # of EPSG:2263, in metres


def district():
    """Frames of five layers: a main road 12 m wide that goes on 6 m wide, two side roads, houses along them, a pond."""
    lines = np.array([shapely.LineString(line) for line in LINES], object)
    houses = [shapely.box(x, y, x + 14, y + 10) for y in (64, 104) for x in range(108, 230, 22)]
    houses += [shapely.affinity.rotate(shapely.box(x, 110, x + 16, 124), 8) for x in (8, 34, 58)]
    court = shapely.box(12, 20, 52, 60).difference(shapely.box(24, 32, 40, 48))
    nodes = [(0, 90), (80, 90), (240, 90), (80, 0), (170, 175)]
    surfaces = shapely.union_all(shapely.buffer(lines, np.array(WIDTHS) / 2, cap_style="flat"))
    parts = {
        "buildings": ({}, [court, *houses]),
        "road_surfaces": ({}, [surfaces]),
        "roads": ({"width_m": WIDTHS}, lines),
        "road_nodes": ({"degree": [1, 4, 1, 1, 1]}, [shapely.Point(node) for node in nodes]),
        "water": ({}, [shapely.Point(200, 30).buffer(24)]),
    }
    return {
        name: geopandas.GeoDataFrame(
            {"id": np.arange(1, len(shapes) + 1), **fields},
            geometry=shapely.transform(np.array(shapes, object), lambda xy: xy + CORNER),
            crs="EPSG:32637",
        )
        for name, (fields, shapes) in parts.items()
    }


def write(path, frames):
    crs = frames["roads"].crs
    files = vector_files(path, frames, crs=crs)
    styles = {name: layer_style(name, COLORS[name]) for name in frames}
    with Outputs(files.paths) as outputs:
        write_vectors(files, frames, outputs, styles=styles)
        outputs.commit()
    return list(dict.fromkeys(files.layers.values()))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What QGIS says of the layers by file, and the folder with its pictures."""
    folder = tmp_path_factory.mktemp("qgis")
    found = Path(QGIS_PYTHON).exists() and qgis("-c", "import qgis.core", folder=folder).returncode == 0
    if not found and not os.environ.get("CI"):
        pytest.skip(f"{QGIS_PYTHON} cannot import qgis.core (Debian: apt-get install python3-qgis)")
    frames = district()
    paths = [
        path for ending in (".gpkg", ".fgb", ".geojson", ".shp") for path in write(folder / f"town{ending}", frames)
    ]
    paths += write(folder / "metres.fgb", {"roads": frames["roads"]})
    paths += write(folder / "feet.fgb", {"roads": frames["roads"].to_crs("EPSG:2263")})
    pictures = Path(os.environ.get("GEOSEG_QGIS_PICTURES", folder))
    probe = Path(__file__).with_name("qgis_layers_probe.py")
    run = qgis(*map(str, (probe, pictures, *paths)), folder=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), pictures


def layers_by_format(described, ending):
    """By layer name, whether in one file or in several."""
    if ending == ".gpkg":
        return described["town.gpkg"]
    return {name: next(iter(described[f"town_{name}{ending}"].values())) for name in COLORS}


@pytest.mark.parametrize("ending", [".gpkg", ".fgb", ".geojson", ".shp"])
def test_layers_load_with_their_styles(opened, ending):
    found = layers_by_format(opened[0], ending)
    frames = district()
    assert set(found) == set(frames)
    for name, layer in found.items():
        crs = "EPSG:4326" if ending == ".geojson" else "EPSG:32637"
        assert (layer["valid"], layer["all valid"], layer["labels"], layer["crs"]) == (True, True, False, crs), name
        assert layer["features"] == len(frames[name])
        assert {"id"} <= set(layer["fields"])
    kinds = {name: (layer["kind"], layer["symbol layers"]) for name, layer in found.items()}
    assert kinds == {
        **dict.fromkeys(("buildings", "road_surfaces", "water"), ("Polygon", ["SimpleFill"])),
        "roads": ("Line", ["SimpleLine", "SimpleLine"]),
        "road_nodes": ("Point", ["SimpleMarker"]),
    }
    assert [found[name]["color"] for name in ("buildings", "roads", "water")] == ["#e34a33", "#5a5a5a", "#3182bd"]
    assert found["roads"]["levels"]
    assert {name: layer["least scale"] for name, layer in found.items() if layer["least scale"]} == {"road_nodes": 5000}
    assert [name for name, layer in found.items() if layer["opacity"] < 1] == ["roads"]


def ink(opened, name):
    """Pixels in a picture of 800 x 600 that roads, or the rims of dots, cover by more than half."""
    with rasterio.open(opened[1] / name) as image:
        return int((image.read([1, 2, 3]) < 170).any(axis=0).sum())


@pytest.mark.parametrize(("name", "crs", "unit"), [("metres", "EPSG:32637", 1), ("feet", "EPSG:2263", FOOT)])
def test_roads_are_as_wide_as_on_the_ground(opened, name, crs, unit):
    """By the area they are drawn on: a casing of 0.6 m on both sides, round ends."""
    roads = district()["roads"].to_crs(crs)
    left, bottom, right, top = roads.total_bounds
    pixel = max((right - left) / 800, (top - bottom) / 600)
    cased = shapely.buffer(roads.geometry.to_numpy(), (np.array(WIDTHS) + 1.2) / 2 / unit)
    middle, half = np.array([left + right, bottom + top]) / 2, np.array([400, 300]) * pixel
    seen = shapely.union_all(cased).intersection(shapely.box(*(middle - half), *(middle + half)))
    assert ink(opened, f"{name}.fgb.near.png") == pytest.approx(seen.area / pixel**2, rel=0.03)


def test_nodes_are_drawn_at_large_scales_only(opened):
    near, afar = (ink(opened, f"town_road_nodes.fgb.{scale}.png") for scale in ("near", "afar"))
    assert (near > 20, afar) == (True, 0)
    assert ink(opened, "town_roads.fgb.afar.png") > 100


def test_a_single_layer_has_the_name_asked_for(opened):
    assert {name for name in opened[0] if "town" not in name} == {"metres.fgb", "feet.fgb"}
