"""Outlines drawn as a network gives them: soft, displaced, rounded at corners, unsure of itself. By strips."""

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.synthetic.noise import Noise
from geoseg.synthetic.scan import Edges, cover, edges_of_polygons, inside
from geoseg.windows import Window
from tests.city_faults import Faults

CLASSES = {0: "background", 1: "building", 2: "road"}
BLUR = {"building": (0.6, 0.7), "road": (0.8, 0.9)}
"""Sigma in pixels of the softness of edges: at noise 0, and what each unit of noise adds."""
DISPLACED = {
    "building": {"tuft": 0.35, "lawn": 0.75, "meadow": 0.45},
    "road": {"tuft": 0.3, "lawn": 0.8, "meadow": 0.6},
}
"""By how many pixels edges are off, by the width of the blobs of a field of `geoseg.synthetic.noise`."""
NOISE_GSD = 0.3
"""Fields are asked for as if pixels were this wide: faults are so many pixels wide, whatever a pixel measures."""
STEEPNESS = 1.5
"""Log-odds per pixel of distance from the edge."""
MOST = 6.0
"""Log-odds at most."""
STRIP_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class Drawing:
    """What there is to draw, in metres, x right and y down from the upper left corner."""

    buildings: np.ndarray
    surface: np.ndarray
    faults: Faults
    valid: shapely.Polygon


@dataclass(frozen=True, slots=True)
class _Outlines:
    """In pixels, each with what it adds to the cover of its class."""

    building: tuple[Edges, np.ndarray]
    road: tuple[Edges, np.ndarray]
    valid: Edges


def draw_planes(drawing: Drawing, side: int, gsd: float, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(side, side) uint8 labels and (3, side, side) uint8 probabilities; 255 without data."""
    outlines = _outlines(drawing, gsd)
    fields = {name: Noise(NOISE_GSD, np.random.default_rng([seed, 7, k])) for k, name in enumerate(BLUR)}
    labels = np.empty((side, side), np.uint8)
    probabilities = np.empty((3, side, side), np.uint8)
    rows = max(STRIP_PIXELS // side, 16)
    for row in range(0, side, rows):
        window = Window(row=row, col=0, height=min(rows, side - row), width=side)
        odds = [_log_odds(name, getattr(outlines, name), fields[name], noise, window) for name in BLUR]
        stored = _stored(np.stack([np.zeros_like(odds[0]), *odds]))
        # The largest stored probability, the first of equals: labels and probabilities never disagree.
        found = stored.argmax(axis=0).astype(np.uint8)
        nothing = ~inside(outlines.valid, window)
        stored[:, nothing], found[nothing] = NODATA, NODATA
        labels[row : row + window.height], probabilities[:, row : row + window.height] = found, stored
    return labels, probabilities


def _outlines(drawing: Drawing, gsd: float) -> _Outlines:
    faults = drawing.faults
    seen = np.where(faults.missed, 0.2, 1.0)
    building = _joined((drawing.buildings, seen), (faults.invented, 1.0), (faults.bites, -1.0), (faults.seams, -0.9))
    road = _joined((drawing.surface, 1.0), (faults.blobs, 1.0), (faults.gaps, -2.0))
    return _Outlines(
        (_in_pixels(building[0], gsd), building[1]),
        (_in_pixels(road[0], gsd), road[1]),
        _in_pixels(np.array([drawing.valid]), gsd),
    )


def _joined(*parts: tuple[np.ndarray, np.ndarray | float]) -> tuple[np.ndarray, np.ndarray]:
    values = [np.broadcast_to(value, len(shapes)) for shapes, value in parts]
    return np.concatenate([shapes for shapes, _ in parts]), np.concatenate(values)


def _in_pixels(shapes: np.ndarray, gsd: float) -> Edges:
    edges = edges_of_polygons(shapes)
    return Edges(edges.ends / gsd, edges.owner)


def _log_odds(name: str, outlines: tuple[Edges, np.ndarray], fields: Noise, noise: float, window: Window) -> np.ndarray:
    """(h, w) float32 log-odds of a class against the background."""
    edges, values = outlines
    least, more = BLUR[name]
    sigma = least + more * noise
    halo = int(np.ceil(4 * sigma)) + 1
    covered = np.clip(cover(edges, values[None], window.expand(halo))[0], 0, 1)
    soft = gaussian_filter(covered, sigma, mode="nearest")[halo:-halo, halo:-halo]
    # Of a straight edge this is the distance to it in pixels, up to four sigma.
    distance = sigma * ndtri(np.clip(soft, 1e-4, 1 - 1e-4))
    for field, size in DISPLACED[name].items():
        distance += noise * size * fields.smooth(window, field)
    # Surer here, less sure there: no edge moves.
    doubt = fields.smooth(window, "stain") * 0.2 + fields.smooth(window, "light") * 0.15
    odds = STEEPNESS * distance * np.exp(noise * doubt) + 0.1 * noise * fields.white(window, 3)
    return np.clip(odds, -MOST, MOST).astype(np.float32)


def _stored(odds: np.ndarray) -> np.ndarray:
    """(classes, h, w) uint8 of log-odds."""
    shares = np.exp(odds - odds.max(axis=0))
    shares *= PROBABILITY_SCALE / shares.sum(axis=0)
    return np.rint(shares).astype(np.uint8)
