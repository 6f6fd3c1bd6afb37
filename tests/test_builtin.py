"""The weights that ship: small, licensed, with a card, and of use on every labelled scene."""

from pathlib import Path

import pytest

from geoseg.checkpoint import builtin_models, load_checkpoint, resolve_model
from geoseg.settings import DEFAULTS
from tests.benchmarks.cities import City
from tests.benchmarks.ground import Ground, Tally, score

ROOT = Path(__file__).parents[1]
LARGEST = {"unet": 20e6, "unet-small": 4e6, "fcn": 20e6}
CITIES = {"zanzibar_a": 0.75, "kampala_a": 0.65, "banepa_east_a": 0.65, "catanduanes_a": 0.6, "banepa_centre_z19": 0.7}
"""Building IoU that `unet` has at least where it has learnt."""
LESS = {"unet": 0.0, "unet-small": 0.1, "fcn": 0.22}
"""What others may have less."""


@pytest.mark.parametrize("name", LARGEST)
def test_it_is_small_and_says_what_it_is(name):
    path = resolve_model(name)
    assert path.stat().st_size <= LARGEST[name]
    header = load_checkpoint(path).header
    assert [item.name for item in header.classes] == ["background", "building", "road"]
    assert header.bands == ("red", "green", "blue")
    assert "CC" in header.licence
    assert "OpenStreetMap" in header.origin
    assert ("EfficientNet" in header.origin) == (name != "fcn")
    for part in ("## Data", "## Scores", "## Where it fails"):
        assert part in header.card
    licences = (ROOT / "LICENSE-WEIGHTS").read_text()
    assert path.name in licences


def test_all_that_ship_are_known_here():
    assert set(builtin_models()) == set(LARGEST)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LARGEST)
def test_it_finds_what_it_has_learnt(name, data_folder, monkeypatch):
    """No measure of how good it is elsewhere: the right weights are in the file, and the network is the right one."""
    monkeypatch.setenv("GEOSEG_DATA", str(data_folder))
    for scene, least in CITIES.items():
        city = City.named(scene)
        iou = city.iou(city.predicted(name), city.known)
        assert iou >= least - LESS[name], scene
    tile = data_folder / "dubai" / "tile4" / "part5.jpg"
    tally = Tally()
    score(Ground("dubai", tile, tile.with_name("part5_mask.png"), known=(1, 2)), name, tally, DEFAULTS)
    assert tally.to_dict()["road"]["iou"] > (0.35 if name == "fcn" else 0.4)
