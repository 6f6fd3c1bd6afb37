"""Layers: what is kept of every cell, and later a raster each. Torch is not needed to know them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geoseg.header import Head
from geoseg.pixels import NODATA


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is kept beside the labels."""

    confidence: bool = False
    """The chosen class's probability."""
    probabilities: bool = False
    """Every class's probability."""
    attention: bool = False
    """The maps of the network's attention gates."""


LABELS_ONLY = Keep()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One array that is kept of every cell, and later one raster."""

    kind: str
    """labels, confidence, probabilities, values or attention."""
    head: str
    """Name of the head it belongs to; empty for attention."""
    bands: tuple[str, ...] | None
    """Names of the bands; None for a single one, whose arrays are (h, w)."""

    @property
    def dtype(self) -> type:
        """float32 for values, uint8 for the rest."""
        return np.float32 if self.kind == "values" else np.uint8

    @property
    def categories(self) -> bool:
        """Whether the values are names, between which there is nothing."""
        return self.kind == "labels"

    @property
    def nodata(self) -> float:
        """The value of invalid pixels."""
        return math.nan if self.kind == "values" else NODATA

    def empty(self, shape: tuple[int, int]) -> np.ndarray:
        """The array of a cell without a valid pixel."""
        full = shape if self.bands is None else (len(self.bands), *shape)
        return np.full(full, self.nodata, self.dtype)


def layers_of(heads: Mapping[str, Head], keep: Keep = LABELS_ONLY, *, attention_maps: int = 0) -> dict[str, Layer]:
    """What is kept of a network with these heads, by name: `labels`, or `labels_<head>` where there are several heads.

    Args:
        heads: Of the checkpoint.
        keep: What to keep beside the labels; a regression head has neither confidence nor probabilities.
        attention_maps: Of the network.
    """
    found: dict[str, Layer] = {}
    for name, head in heads.items():
        classes = tuple(item.name for item in head.classes)
        many = classes if head.task == "multilabel" else None
        kinds: dict[str, tuple[str, ...] | None] = {"values": None} if head.task == "regression" else {"labels": many}
        if keep.confidence and classes:
            kinds["confidence"] = many
        if keep.probabilities and classes:
            kinds["probabilities"] = classes
        for kind, bands in kinds.items():
            found[kind if len(heads) == 1 else f"{kind}_{name}"] = Layer(kind=kind, head=name, bands=bands)
    if keep.attention:
        bands = tuple(f"gate {index}" for index in range(1, attention_maps + 1))
        found["attention"] = Layer(kind="attention", head="", bands=bands)
    return found
