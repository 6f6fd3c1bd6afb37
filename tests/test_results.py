"""What a run ends with: which validation windows are drawn."""

import numpy as np

from geoseg.metrics import TileScore
from geoseg.training.results import _chosen
from geoseg.windows import Window


def tile(name: str, *counts: int) -> TileScore:
    """A tile of 10 x 10 with these counts: background, false alarms, misses, hits."""
    window = Window(row=0, col=0, height=10, width=10)
    return TileScore("s", name, 0, 0, 10, 10, np.array(counts).reshape(2, 2), ground=0, window=window)


def test_the_worst_windows_have_the_most_wrong_pixels_where_the_score_is_the_same():
    bare = [tile("speck", 99, 1, 0, 0), tile("half", 50, 50, 0, 0), tile("missed", 70, 0, 30, 0)]
    good = [tile(f"good{hits}", 100 - hits, 5, 0, hits - 5) for hits in (20, 30, 40, 50, 60, 70)]
    found = [title.split(",")[0] for title, _, _ in _chosen([*good, *bare], [])]
    assert found[:3] == ["worst: half", "worst: missed", "worst: speck"]
    assert found[-1] == "best: good70"
