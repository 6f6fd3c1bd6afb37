"""The goals for the shapes of buildings and streets on a synthetic city: what the benchmark checks, but for time."""

import numpy as np
import pytest

from tests.benchmarks.rivals import BUILDINGS, ROADS
from tests.benchmarks.vectors import (
    ALONE,
    GOALS,
    LABELS_ALONE,
    NOISE,
    RAW,
    SIDE,
    STREETS,
    WALLS,
    score_buildings,
    score_streets,
)
from tests.city import City, make_city

TIMED = ("s_per_10k", "s_per_km")


@pytest.fixture(scope="module")
def city() -> City:
    return make_city(SIDE, seed=0, noise=NOISE)


def missed(kind, scores):
    """Fields that do not reach their bound, with the figure."""
    goals = [(field, bound, most) for field, bound, most in GOALS[kind] if field not in TIMED]
    assert all(scores[field] is not None for field, _, _ in goals)
    return {f: scores[f] for f, bound, most in goals if (scores[f] > bound if most else scores[f] < bound)}


@pytest.mark.slow
def test_buildings(city):
    raw, walls, alone = (score_buildings(BUILDINGS[name](city), city, 0.0) for name in (RAW, WALLS, ALONE))
    # Goals are for a city whose raw outlines are as good as this.
    assert raw["mean_iou"] == pytest.approx(0.897, abs=0.003)
    walls["iou_over_raw"] = walls["mean_iou"] - raw["mean_iou"]
    assert missed("buildings", walls) == {}
    assert walls["mean_iou"] - alone["mean_iou"] <= LABELS_ALONE


@pytest.mark.slow
def test_streets(city):
    assert missed("roads", score_streets(ROADS[STREETS](city), city, 0.0)) == {}


def test_a_goal_that_is_missed_is_seen():
    scores = {field: bound for field, bound, _ in GOALS["roads"]}
    assert missed("roads", scores) == {}
    assert missed("roads", scores | {"apls": np.nextafter(scores["apls"], 0)}).keys() == {"apls"}
