"""Sizes of patches on the ground, against every vertex projected."""

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geoseg.grid import Grid
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.sizes import sizes


def patches_on(transform, crs, shape=(300, 260)):
    """Some ragged patches with holes, and one that spans the scene."""
    rng = np.random.default_rng(4)
    labels = np.kron(rng.random((shape[0] // 10, shape[1] // 10)) < 0.6, np.ones((10, 10))).astype(np.uint8)
    labels[150] = 1
    wkt = rasterio.CRS.from_user_input(crs).to_wkt(version="WKT2_2019") if crs else None
    grid = Grid(shape=labels.shape, transform=transform, crs=wkt)
    return trace(ArrayPlanes(labels, grid, {0: "background", 1: "building"}), [1], subpixel=False), grid


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32637", Affine(0.3, 0, 500000, 0, -0.3, 6650000)),
        ("EPSG:32637", Affine(30, 5, 800000, 5, -30, 6650000)),
        ("EPSG:3857", Affine(10, 0, 4200000, 0, -10, 8399737)),
        ("EPSG:4326", Affine(1e-3, 0, 39, 0, -1e-3, 60)),
    ],
    ids=["fine", "rotated and coarse", "web mercator", "degrees"],
)
def test_sizes_are_those_of_projected_polygons(crs, transform):
    patches, grid = patches_on(transform, crs)
    metric = Metric(grid)
    ground = shapely.transform(patches.polygons(), metric.to_metres)
    found = sizes(patches, grid)
    assert list(found) == ["area_m2", "perimeter_m"]
    assert found["area_m2"] == pytest.approx(shapely.area(ground), rel=1e-5, abs=1e-3)
    assert found["perimeter_m"] == pytest.approx(shapely.length(ground), rel=1e-5, abs=1e-3)


def test_without_a_crs_pixels_are_counted_exactly():
    patches, grid = patches_on(Affine.identity(), None)
    found = sizes(patches, grid)
    assert np.array_equal(found["area_px"], patches.pixels)
    assert np.array_equal(found["perimeter_px"], shapely.length(patches.polygons()))


def test_nothing_has_no_size():
    patches, grid = patches_on(Affine(0.3, 0, 500000, 0, -0.3, 6650000), "EPSG:32637")
    assert len(sizes(patches.slice(0, 0), grid)["area_m2"]) == 0
