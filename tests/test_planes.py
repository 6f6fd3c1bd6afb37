"""Planes say the same wherever their pixels lie: in memory, in GeoTIFFs, in the spool of a prediction."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import SceneError, UsageError
from geoseg.grid import Grid
from geoseg.spool import Spool
from geoseg.vectors.planes import ArrayPlanes, RasterPlanes
from geoseg.vectors.spooled import SpoolPlanes
from geoseg.windows import Plan, Window

CLASSES = {0: "background", 1: "building", 2: "road"}
TRANSFORM = Affine(0.3, 0, 500000, 0, -0.3, 5200000)
SHAPE = 37, 53


def stored(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that agree, with a patch without data."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet((1, 1, 1), SHAPE).transpose(2, 0, 1)
    labels, probabilities = shares.argmax(0).astype(np.uint8), np.round(254 * shares).astype(np.uint8)
    labels[5:9, 40:] = 255
    probabilities[:, 5:9, 40:] = 255
    return labels, probabilities


def in_memory() -> ArrayPlanes:
    labels, probabilities = stored()
    return ArrayPlanes(labels, Grid(SHAPE, TRANSFORM, "EPSG:32637"), CLASSES, probabilities)


def write(path, bands: np.ndarray, **changes):
    profile = {
        "driver": "GTiff", "height": bands.shape[1], "width": bands.shape[2], "count": len(bands), "dtype": "uint8",
        "crs": "EPSG:32637", "transform": TRANSFORM, "nodata": 255,
    } | changes  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)
    return path


@pytest.fixture
def in_files(tmp_path):
    labels, probabilities = stored()
    classes, shares = write(tmp_path / "l.tif", labels[None]), write(tmp_path / "p.tif", probabilities)
    with RasterPlanes(classes, CLASSES, shares) as planes:
        yield planes


@pytest.fixture
def spooled(tmp_path):
    labels, probabilities = stored()
    plan = Plan(shape=SHAPE, cell_side=16)
    with Spool.open(tmp_path / "run.partial", {}) as spool:
        for index, cell in enumerate(plan):
            spool.write(index, {"labels": labels[cell.slices()], "probabilities": probabilities[:, *cell.slices()]})
        grid = Grid(SHAPE, TRANSFORM, "EPSG:32637")
        yield SpoolPlanes(spool, plan, grid, CLASSES, "labels", "probabilities")


@st.composite
def windows(draw):
    row, col = draw(st.integers(0, SHAPE[0] - 1)), draw(st.integers(0, SHAPE[1] - 1))
    height, width = draw(st.integers(1, SHAPE[0] - row)), draw(st.integers(1, SHAPE[1] - col))
    return Window(row=row, col=col, height=height, width=width)


def test_all_say_the_same(in_files, spooled):
    @settings(max_examples=40, deadline=None)
    @given(windows(), st.sampled_from(list(CLASSES)))
    def check(window, value):
        want = in_memory()
        for planes in (in_files, spooled):
            assert (planes.labels(window) == want.labels(window)).all()
            assert (planes.probability(window, value) == want.probability(window, value)).all()
            np.testing.assert_array_equal(planes.margin(window, value), want.margin(window, value))

    check()


def test_threads_read_what_one_alone_does(in_files, spooled, monkeypatch):
    monkeypatch.setattr("geoseg.vectors.spooled._CACHED", 3 * 16 * 16 * 2)  # two cells: others go while they are read
    rows = [Window(row=row, col=0, height=1, width=SHAPE[1]) for row in range(SHAPE[0])] * 8
    want = in_memory()
    for planes in (in_files, spooled):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row: (planes.labels(row), planes.margin(row, 1)), rows))  # noqa: B023
        for row, (labels, margin) in zip(rows, found, strict=True):
            np.testing.assert_array_equal(labels, want.labels(row))
            np.testing.assert_array_equal(margin, want.margin(row, 1))


def test_the_margin_is_positive_where_the_class_wins():
    planes, window = in_memory(), Window(row=0, col=0, height=SHAPE[0], width=SHAPE[1])
    labels = planes.labels(window)
    for value in CLASSES:
        margin = planes.margin(window, value)
        assert np.isnan(margin[labels == 255]).all()
        assert (margin[labels == value] >= 0).all()
        assert (margin[(labels != value) & (labels != 255)] <= 0).all()
        assert np.nanmin(margin) >= -1


def test_without_probabilities_there_is_no_margin(tmp_path):
    labels, _ = stored()
    window = Window(row=0, col=0, height=3, width=4)
    with RasterPlanes(write(tmp_path / "l.tif", labels[None]), CLASSES) as planes:
        assert planes.probability(window, 1) is None
        assert planes.margin(window, 1) is None
        assert planes.grid.shape == SHAPE


def test_another_nodata_value_reads_as_ours(tmp_path):
    labels, _ = stored()
    labels[labels == 255] = 7
    with RasterPlanes(write(tmp_path / "l.tif", labels[None], nodata=7), CLASSES) as planes:
        found = planes.labels(Window(row=0, col=0, height=SHAPE[0], width=SHAPE[1]))
        assert ((found == 255) == (labels == 7)).all()


def test_probabilities_of_another_run_are_refused(tmp_path):
    labels, probabilities = stored()
    path = write(tmp_path / "l.tif", labels[None])
    apart = write(tmp_path / "apart.tif", probabilities, transform=TRANSFORM @ Affine.translation(1, 0))
    small = write(tmp_path / "small.tif", probabilities[:, 1:])
    few = write(tmp_path / "few.tif", probabilities[:2])
    real = write(tmp_path / "real.tif", probabilities.astype(np.float32), dtype="float32")
    for other, said in ((apart, "lie apart"), (small, "53x36 pixels"), (few, "has 2 bands, .* 3 classes")):
        with pytest.raises(UsageError, match=said):
            RasterPlanes(path, CLASSES, other)
    for other, said in (
        (real, "3 bands of float32"),
        (path, "1 band of uint8"),
        (tmp_path / "no.tif", "is not a file"),
    ):
        with pytest.raises(SceneError, match=said):
            RasterPlanes(path, CLASSES, other)


def test_a_block_that_cannot_be_read_is_named(tmp_path):
    labels, _ = stored()
    path = write(tmp_path / "l.tif", labels[None], compress="deflate")
    content = bytearray(path.read_bytes())
    content[-200:] = b"\0" * 200
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"l.tif cannot be read"), RasterPlanes(path, CLASSES) as planes:
        planes.labels(Window(row=0, col=0, height=SHAPE[0], width=SHAPE[1]))
