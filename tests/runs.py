"""Tiny training runs: configurations to learn squares by in a second, and what a run folder holds."""

import csv
from pathlib import Path

import numpy as np
from labelled import write_boxes, write_raster

TINY = {
    "arch_args": {"width": 4, "depth": 2},
    "classes": [{"name": "background"}, {"name": "building"}],
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 2,
    "tile_size": 32,
    "cell_side": 64,
    "optimizer.ema": 0.5,
}

TIMES = ("samples_per_s", "seconds")
"""Columns of metrics.csv that differ from run to run."""

PICTURES = {"batch.png", "curves.png", "confusion.png", "samples.png"}


def squares(folder: Path) -> dict:
    """Bright squares on dark ground, as a scene with vector labels."""
    rng = np.random.default_rng(0)
    data = rng.integers(20, 80, (3, 160, 192), dtype=np.uint8)
    boxes = []
    for row in range(8, 150, 24):
        for col in range(8, 180, 24):
            data[:, row : row + 9, col : col + 11] += 120
            boxes.append((col, row, col + 11, row + 9))
    image = write_raster(folder / "scene.tif", data)
    labels = write_boxes(folder / "labels.geojson", boxes)
    source = {"scene": str(image), "labels": str(labels), "val": [[128, 0, 192, 160]]}
    changes = {"epochs": 3, "steps_per_epoch": 25, "batch_size": 4, "tile_size": 48, "optimizer.lr": 0.01}
    return TINY | changes | {"data.sources": [source]}


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without the times."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def same(one: Path, other: Path) -> None:
    """Two run folders of one run: equal networks, equal metrics, equal tables of tiles."""
    for name in ("model.safetensors", "last.safetensors", "config.yaml", "tiles.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(one) == rows(other)


def no_pictures(monkeypatch) -> None:
    """Drawing takes longer than such a run."""
    import geoseg.training.figures as figures

    for name in ("contact_sheet", "curves", "confusion", "samples"):
        monkeypatch.setattr(figures, name, lambda *args, **options: None)
