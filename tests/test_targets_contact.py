"""The contact class: where buildings touch, nearly touch, overlap, or do neither."""

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.targets import read_labels
from geoseg.targets.burning import PixelPolygons
from geoseg.targets.contact import contacts
from geoseg.windows import Window

GRID = Grid((40, 60), Affine.scale(1, 1), None)
NAMES = ("background", "building", "contact")


def burn(*shapes) -> np.ndarray:
    strips = contacts(np.array(shapes, object))
    return PixelPolygons(polygons=strips, values=np.ones(len(strips), np.uint8)).burn(GRID.window)


def test_a_shared_wall_gets_three_pixels():
    found = burn(box(5, 5, 20, 25), box(20, 5, 40, 25))
    # A wall between two columns of pixels has centres at 0.5 and 1.5 from it: the outermost lie on the edge.
    assert set(np.flatnonzero(found[15])) in ({19, 20}, {18, 19, 20}, {19, 20, 21}, {18, 19, 20, 21})
    assert not found[:3].any()
    assert not found[27:].any()
    in_the_middle = burn(box(5, 5, 20.5, 25), box(20.5, 5, 40, 25))
    assert set(np.flatnonzero(in_the_middle[15])) == {19, 20, 21}


@pytest.mark.parametrize(("gap", "columns"), [(1, {20}), (1.5, {20}), (2.5, set()), (5, set())])
def test_narrow_gaps_are_filled_and_wider_ones_left(gap, columns):
    found = set(np.flatnonzero(burn(box(5, 5, 20, 25), box(20 + gap, 5, 40, 25))[15]))
    assert columns <= found if columns else not found
    assert not found & {17, 18, 23, 24}


def test_a_house_drawn_twice_or_inside_another_is_no_neighbour():
    house = box(5, 5, 25, 25)
    assert not burn(house, house).any()
    assert not burn(house, box(8, 8, 15, 15)).any()
    assert not burn(house, box(5, 5, 25, 24)).any()


def test_where_two_overlap_the_contact_follows_the_outline_of_one():
    found = burn(box(5, 5, 20, 25), box(17, 5, 40, 25))
    assert found[15, 20]
    assert not found[15, [15, 16, 17, 23, 24]].any()


def test_a_gap_of_two_pixels_has_one_in_the_middle():
    found = np.flatnonzero(burn(box(5, 5, 20, 25), box(22, 5, 40, 25))[15])
    assert len(found)
    assert set(found) <= {20, 21}


def test_two_apart_and_one_alone_have_none():
    assert not burn(box(5, 5, 15, 15), box(30, 20, 50, 35)).any()
    assert not burn(box(5, 5, 15, 15)).any()
    assert contacts(np.array([], object)).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(
    cut=st.integers(12, 48).map(lambda half: half / 2),
    row=st.integers(0, 30), col=st.integers(0, 50), height=st.integers(1, 10), width=st.integers(1, 10),
)  # fmt: skip
def test_contact_of_a_window_is_the_window_of_the_contact(tmp_path_factory, cut, row, col, height, width):
    path = tmp_path_factory.mktemp("contact") / "labels.gpkg"
    shapes = [box(2, 2, cut, 30), box(cut, 4, 40, 35), box(3, 30, cut + 3, 38)]
    pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32637"), path)
    labels = read_labels(path, grid=GRID, class_names=NAMES, contact="contact")
    window = Window(row=row, col=col, height=height, width=width)
    whole = labels.target(GRID.window)
    assert labels.present == ("building", "contact")
    assert set(np.unique(whole)) == {0, 1, 2}
    np.testing.assert_array_equal(labels.target(window), whole[window.slices()])


def test_contact_is_painted_over_buildings_and_between_buildings_only(tmp_path):
    shapes = [box(5, 5, 20.5, 25), box(20.5, 5, 40, 25), box(5, 25, 40, 30)]
    path = tmp_path / "labels.gpkg"
    pyogrio.write_dataframe(gpd.GeoDataFrame({"kind": ["building", "building", "road"]}, geometry=shapes), path)
    names = ("background", "building", "road", "contact")
    target = read_labels(path, grid=GRID, class_names=names, contact="contact").target(GRID.window)
    assert target[15, 17:24].tolist() == [1, 1, 3, 3, 3, 1, 1]
    assert target[28, 10] == 2
    assert not (target[24:26, 5:17] == 3).any()


def test_contact_must_be_a_class_of_its_own(tmp_path):
    path = tmp_path / "labels.gpkg"
    pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=[box(5, 5, 20, 25)], crs="EPSG:32637"), path)
    for names, contact, wrong in [
        (NAMES, "wall", "contact='wall' is no class"),
        (NAMES, "background", "leaves no class"),
        (("background", "contact"), "contact", "leaves no class"),
    ]:
        with pytest.raises(UsageError, match=wrong):
            read_labels(path, grid=GRID, class_names=names, contact=contact)
