"""What a class is on the ground."""

import pytest

from geoseg.errors import UsageError
from geoseg.vectors.kinds import is_background, kinds_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("building", "building"),
        ("Buildings", "building"),
        ("roof (tin)", "building"),
        ("house", "building"),
        ("road", "road"),
        ("unpaved_road", "road"),
        ("Roads-main", "road"),
        ("street", "road"),
        ("water", "area"),
        ("broadleaf", "area"),
        ("off road vehicle", "area"),
        ("class_3", "area"),
        ("", "area"),
    ],
)
def test_the_name_tells_the_kind(name, kind):
    assert kinds_of([name]) == {name: kind}


def test_what_is_given_beats_the_name():
    assert kinds_of(["building", "water"], {"building": "area", "water": "road"}) == {
        "building": "area",
        "water": "road",
    }


def test_unknown_classes_and_kinds_are_refused():
    with pytest.raises(UsageError, match=r"class 'buildin' is not outlined. Did you mean 'building'\?"):
        kinds_of(["building"], {"buildin": "area"})
    with pytest.raises(
        UsageError, match=r"'rode' is no kind. Did you mean 'road'\? Expected one of building, road, area"
    ):
        kinds_of(["road"], {"road": "rode"})


@pytest.mark.parametrize(
    ("name", "is_none"),
    [
        ("background", True),
        ("Background ", True),
        ("no_data", True),
        ("Unlabelled", True),
        ("Others", True),
        ("water", False),
        ("other roads", False),
        ("", False),
    ],
)
def test_names_of_no_class(name, is_none):
    assert is_background(name) == is_none
