"""Scene, truth and prediction side by side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from geoseg.metrics import IGNORE
from geoseg.synthetic.files import COLORS
from geoseg.synthetic.town import CLASSES, Town

SIDE = 1100
"""Pixels of a panel at most along each side; larger scenes are thinned out."""


def before_after(path: Path, town: Town, labels: np.ndarray, *, colors: Mapping[str, str] = COLORS) -> None:
    """Write a PNG of three panels with a legend: the scene, its true labels, the labels predicted.

    Args:
        path: File to write.
        town: The scene and its truth.
        labels: (H, W) uint8 indices into `CLASSES`, 255 = nodata.
        colors: "#rrggbb" by class name.
    """
    step = -(-max(labels.shape) // SIDE)
    scene = np.ascontiguousarray(town.image[:, ::step, ::step].transpose(1, 2, 0))
    panels = {"scene": scene}
    for title, indices in (("labels (exact)", town.target()), ("prediction", labels)):
        panels[title] = _over(scene, indices[::step, ::step], colors)
    height, width = (max(side, 300) / 100 for side in scene.shape[:2])  # inches; the titles need some room
    figure = Figure(figsize=(3 * width, height + 0.8), dpi=100, layout="constrained")
    for axes, (title, pixels) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(pixels, interpolation="none")
        axes.set_title(title, fontsize=16)
        axes.set_axis_off()
    patches = [Patch(color=colors[name], label=name) for name in CLASSES[1:]]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=16, frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def _over(scene: np.ndarray, indices: np.ndarray, colors: Mapping[str, str]) -> np.ndarray:
    """(H, W, 3) uint8: the scene in grey, classes in their colours, white without data."""
    out = np.repeat(0.5 * scene.mean(axis=2, keepdims=True) + 90, 3, axis=2)
    for index, name in enumerate(CLASSES[1:], start=1):
        rgb = [int(colors[name][k : k + 2], 16) for k in (1, 3, 5)]
        out[indices == index] = 0.25 * out[indices == index] + 0.75 * np.array(rgb)
    out[indices == IGNORE] = 255
    return out.astype(np.uint8)
