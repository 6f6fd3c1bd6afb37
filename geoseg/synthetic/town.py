"""A synthetic town: exact vectors first, then its picture, its valid pixels and its target."""

from dataclasses import dataclass
from functools import cached_property

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError

from geoseg.config import TRAINING_SEEDS
from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.synthetic.layers import make_layers
from geoseg.synthetic.layout import Layout, lay_out
from geoseg.synthetic.noise import Noise
from geoseg.synthetic.paint import paint
from geoseg.synthetic.scan import edges_of_polygons, inside
from geoseg.synthetic.streets import draw_streets
from geoseg.synthetic.style import draw_style
from geoseg.windows import Window

DEMO_SEED = TRAINING_SEEDS
"""Seeds from here on are kept for demos and tests of trained models: training configurations refuse them."""
CLASSES = ("background", "building", "road")
"""What the values of `Town.target` mean."""
PLACE = (38.0, 47.2)
"""Longitude and latitude of the town, unless the CRS is not meant for there."""
_STRIP_PIXELS = 1 << 20
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True)
class Town:
    """A town, drawn."""

    image: np.ndarray
    """(3, H, W) uint8 RGB; 0 in all three where there is no data, 1..255 elsewhere."""
    valid: np.ndarray
    """(H, W) bool, True = usable: inside the collar."""
    grid: Grid
    """Where the pixels lie."""
    buildings: gpd.GeoDataFrame
    """Polygons with `class` = building, `height_m`; some share walls, none overlap. Not clipped to the picture."""
    roads: gpd.GeoDataFrame
    """Polygons with `class` = road: the street surface, clipped to the picture."""
    centrelines: gpd.GeoDataFrame
    """LineStrings between junctions with `class` = road, `width_m`, `main`, `dirt`; clipped to the picture."""

    def target(self) -> np.ndarray:
        """(H, W) uint8: 0 background, 1 building, 2 road by what lies under each pixel's centre; 255 without data."""
        return self._target.copy()

    @cached_property
    def _target(self) -> np.ndarray:
        out = np.zeros(self.grid.shape, np.uint8)
        for index, layer in ((2, self.roads), (1, self.buildings)):
            edges = edges_of_polygons(_transformed(layer.geometry.to_numpy(), ~self.grid.transform))
            out[inside(edges, self.grid.window)] = index
        out[~self.valid] = IGNORE
        return out


def draw_town(
    shape: tuple[int, int] = (1024, 1024),
    gsd: float = 0.3,
    seed: int = 0,
    *,
    crs: str = "EPSG:32637",
    collar: bool = True,
) -> Town:
    """Draw a town: the same arguments give the same bytes.

    Vectors come first and are exact; the picture is painted from them, with anti-aliased edges, trees and shadows over
    parts of them. Painting goes by strips of rows: beside the picture itself (3 bytes per pixel) memory stays at a few
    hundred MB; the vectors grow with the town's area.

    Args:
        shape: (height, width) in pixels, each at least 1.
        gsd: True metres on the ground per pixel; 0.1 to 1 looks best.
        seed: At least 0. Look, climate, light and camera follow from it as well. From `DEMO_SEED` on: not for training.
        crs: Anything pyproj understands that is projected or geographic.
        collar: Leave an irregular border without data.

    Raises:
        UsageError: For an empty shape, a gsd or seed out of range, or a CRS that is neither projected nor geographic.
    """
    height, width = shape
    if height < 1 or width < 1 or not 0.02 <= gsd <= 10 or seed < 0:
        raise UsageError(
            f"town of {width}x{height} pixels, gsd={gsd}, seed={seed} cannot be drawn. Expected at least one pixel, "
            "0.02 to 10 metres per pixel and a seed of at least 0."
        )
    style = draw_style(_stream(seed, 0))
    extent = (width * gsd, height * gsd)
    layout = lay_out(draw_streets(extent, style, _stream(seed, 1)), style, _stream(seed, 2))
    grid = _place(shape, gsd, crs)
    layers, noise = make_layers(layout, style, gsd, _stream(seed, 3)), Noise(gsd, _stream(seed, 5))
    valid = _inside_collar(shape, _stream(seed, 4)) if collar else np.ones(shape, bool)
    image = np.empty((3, height, width), np.uint8)
    rows = max(_STRIP_PIXELS // width, 32)
    for row in range(0, height, rows):
        window = Window(row=row, col=0, height=min(rows, height - row), width=width)
        image[:, row : row + rows] = paint(layers, style, noise, window)
    image[:, ~valid] = 0
    return Town(image, valid, grid, *_labels(layout, grid, gsd))


def _stream(seed: int, stage: int) -> np.random.Generator:
    """Random numbers of one stage: what one stage draws does not move what the next one gets."""
    return np.random.default_rng([seed, stage])


def _place(shape: tuple[int, int], gsd: float, crs: str) -> Grid:
    """A north-up grid at `PLACE` whose pixels measure `gsd` metres on the ground in both directions."""
    try:
        parsed = CRS.from_user_input(crs)
    except CRSError as err:
        raise UsageError(f"crs={crs} is not known. Expected a code such as EPSG:32637.") from err
    if not (parsed.is_projected or parsed.is_geographic):
        raise UsageError(f"crs={crs} is neither projected nor geographic. Expected one such as EPSG:32637.")
    lon, lat = PLACE
    area = parsed.area_of_use
    if area and not (area.west <= lon <= area.east and area.south <= lat <= area.north):
        lon, lat = (area.west + area.east) / 2, (area.south + area.north) / 2
    x, y = Transformer.from_crs("EPSG:4326", parsed, always_xy=True).transform(lon, lat)
    to_degrees = Transformer.from_crs(parsed, "EPSG:4326", always_xy=True)
    step = 1e-3 if parsed.is_geographic else 100.0
    metres = []
    for dx, dy in ((step, 0.0), (0.0, step)):
        lons, lats = to_degrees.transform([x - dx / 2, x + dx / 2], [y - dy / 2, y + dy / 2])
        metres.append(float(_GEOD.line_length(lons, lats)) / step)
    # A projection in metres is true within a part in a thousand: its pixel size stays the round number asked for.
    scale_x, scale_y = (1.0 if abs(scale - 1) < 2e-3 else scale for scale in metres)
    digits = 5 if parsed.is_geographic else 0
    left, top = round(x, digits), round(y, digits)
    return Grid(shape, Affine(gsd / scale_x, 0, left, 0, -gsd / scale_y, top), parsed.to_wkt())


def _inside_collar(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: a quadrilateral with ragged sides, a few percent inside the picture, sometimes with a hole."""
    height, width = shape
    inset = rng.uniform(-0.01, 0.07, (4, 2)) * (width, height)
    inset[rng.integers(4)] = rng.uniform(0.03, 0.07, 2) * (width, height)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) + inset * [
        (1, 1),
        (-1, 1),
        (-1, -1),
        (1, -1),
    ]
    sides = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = np.sort(rng.uniform(0, 1, rng.integers(4, 14)))[:, None]
        ragged = rng.normal(0, 0.006, (len(along), 1)) * min(shape)
        side = np.array([-(b - a)[1], (b - a)[0]]) / np.hypot(*(b - a))
        sides += [a[None], a + along * (b - a) + ragged * side]
    window = Window(row=0, col=0, height=height, width=width)
    valid = inside(edges_of_polygons([shapely.Polygon(np.concatenate(sides))]), window)
    if rng.random() < 0.3:
        spot = shapely.Point(rng.uniform(0, width), rng.uniform(0, height)).buffer(0.03 * min(shape), quad_segs=2)
        valid &= ~inside(edges_of_polygons([spot]), window)
    return valid


def _transformed(shapes: np.ndarray, transform: Affine) -> np.ndarray:
    """Geometries through an affine transform."""
    a, b, c, d, e, f = transform[:6]
    turn, shift = np.array([[a, d], [b, e]]), np.array([c, f])
    return shapely.transform(shapes, lambda points: points @ turn + shift)


def _labels(layout: Layout, grid: Grid, gsd: float) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Buildings that reach into the picture, street surfaces and centrelines clipped to it, in the CRS of `grid`."""
    to_crs = grid.transform @ Affine.scale(1 / gsd)
    frame = shapely.box(0, 0, grid.width * gsd, grid.height * gsd)
    seen = shapely.intersects(layout.footprints, frame)
    buildings = {
        "class": ["building"] * int(seen.sum()),
        "height_m": [round(building.height, 1) for building, here in zip(layout.buildings, seen, strict=True) if here],
    }
    surface = shapely.get_parts(layout.surface.intersection(frame))
    surface = surface[shapely.area(surface) > 0]
    streets = layout.streets
    lines, of = shapely.get_parts(shapely.intersection(streets.lines, frame), return_index=True)
    kept = shapely.length(lines) > 0
    lines, of = lines[kept], of[kept]
    centrelines = {
        "class": ["road"] * len(lines),
        "width_m": streets.width[of],
        "main": streets.main[of],
        "dirt": streets.dirt[of],
    }

    def layer(fields: dict, shapes: np.ndarray) -> gpd.GeoDataFrame:
        return gpd.GeoDataFrame(fields, geometry=_transformed(shapes, to_crs), crs=grid.crs)

    roads = layer({"class": ["road"] * len(surface)}, surface)
    return layer(buildings, layout.footprints[seen]), roads, layer(centrelines, lines)
