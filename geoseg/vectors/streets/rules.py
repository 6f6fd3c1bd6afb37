"""Rules of the street network: every length in metres, and the same in pixels of one grid."""

import math
from dataclasses import dataclass

import numpy as np

from geoseg.errors import UsageError
from geoseg.vectors.metric import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What makes a street. Lengths are metres on the ground; pixels, where nothing tells how wide a pixel is."""

    min_spur_m: float = 8.0
    """Dead ends shorter than this, or than three quarters of the width of the street they leave, are no streets."""
    bridge_m: float = 15.0
    """Longest gap that is bridged, from the end of one surface to the start of the next; 0 bridges none."""
    max_width_m: float = 30.0
    """What is wider in all directions is a square: streets run along its rim."""
    simplify_m: float = 1.0
    """Furthest that a simplified line may lie from the one it stands for."""
    blur_m: float = 0.6
    """Standard deviation of the Gaussian by which scores are smoothed before the threshold."""
    closing_m: float = 1.5
    """Radius of the disc by which the surface is closed."""
    fill_m2: float = 36.0
    """Holes of less than this are filled."""
    smooth_m: float = 4.0
    """Standard deviation of the Gaussian by which centrelines are smoothed."""
    min_part_m: float = 25.0
    """Parts of the network of less length, connected with nothing else, are left out."""
    min_width_m: float = 2.0
    """Such parts of less width on average are left out too: fences, paths."""

    def __post_init__(self) -> None:
        for name in Rules.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name}={value} is no length. Expected a number of at least 0.")
        if self.max_width_m <= 0:
            raise UsageError("max_width_m=0 leaves no streets. Expected more than 0.")


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """The rules as integers on the pixel lattice, so that no result depends on how a raster is cut."""

    scale: tuple[float, float]
    """Metres per pixel along a row and along a column."""
    taps: tuple[np.ndarray, np.ndarray]
    """Weights of the Gaussian along a row and a column, uint32, odd in number, of sum 256."""
    disc: np.ndarray
    """(2 r + 1,) int64: half the width in pixels of each row of the disc that closes the surface."""
    fill: int
    """Holes of at most so many pixels are filled."""
    span: int
    """If they are at most so many pixels high and wide."""
    core: tuple[int, int]
    """Half the width and height of the box that fits into nothing but a square."""
    rounds: int
    """Rounds of thinning until every street is a line."""

    @classmethod
    def of(cls, rules: Rules, metric: Metric) -> "Footprints":
        """Of a grid, by the pixels at its centre: in degrees they are not square on the ground."""
        across, down = scale_of(metric)
        half = rules.max_width_m / 2
        # No box need be wider than twice the raster, whatever the width asked for.
        height, width = metric.grid.shape
        core = (max(1, min(width, math.ceil(half / across))), max(1, min(height, math.ceil(half / down))))
        area = rules.fill_m2 / (across * down)
        return cls(
            scale=(across, down),
            taps=(_gaussian(rules.blur_m / across), _gaussian(rules.blur_m / down)),
            disc=_disc(rules.closing_m / across, rules.closing_m / down),
            fill=int(area),
            span=math.ceil(3 * math.sqrt(rules.fill_m2) / min(across, down)) if area >= 1 else 0,
            core=core,
            rounds=math.ceil(1.5 * max(core)) + 4,
        )

    @property
    def blur_halo(self) -> int:
        """Pixels of context that smoothing needs."""
        return max(len(taps) // 2 for taps in self.taps)

    @property
    def halo(self) -> int:
        """Pixels of context from which on a pixel of the skeleton cannot change any more."""
        closing = 2 * max(len(self.disc) // 2, int(self.disc.max()))
        # Two sub-iterations a round, each of which looks one pixel further.
        return self.blur_halo + closing + self.span + max(self.core) + 2 * self.rounds + 2


def scale_of(metric: Metric) -> tuple[float, float]:
    """Metres per pixel along a row and along a column, at the centre of the grid."""
    centre = np.array([metric.grid.width / 2, metric.grid.height / 2])
    here, right, below = metric.to_metres(centre + np.array([(0, 0), (1, 0), (0, 1)]))
    return float(np.hypot(*(right - here))), float(np.hypot(*(below - here)))


def to_border(xy: np.ndarray, metric: Metric) -> np.ndarray:
    """(k,) metres, about, from (k, 2) points to where the raster ends."""
    size = np.array([metric.grid.width, metric.grid.height])
    pixels = metric.to_pixels(xy)
    near: np.ndarray = (np.minimum(pixels, size - pixels) * scale_of(metric)).min(axis=1)
    return near


def _gaussian(sigma: float) -> np.ndarray:
    """Integer weights of sum 256: sums of integers are the same in any order."""
    reach = math.ceil(2.5 * sigma)
    if sigma < 0.3:
        return np.array([256], np.uint32)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    whole = np.round(256 * weights / weights.sum()).astype(np.int64)
    whole[reach] += 256 - whole.sum()
    kept = np.flatnonzero(whole)
    return whole[kept[0] : kept[-1] + 1].astype(np.uint32)


def _disc(across: float, down: float) -> np.ndarray:
    """Half widths in pixels of the rows of an ellipse of the given half axes, in pixels."""
    if min(across, down) < 1:
        return np.zeros(1, np.int64)
    rows = np.arange(-int(down), int(down) + 1)
    return np.floor(across * np.sqrt(1 - (rows / down) ** 2)).astype(np.int64)
