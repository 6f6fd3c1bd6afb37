"""A town taken apart into layers: outlines in pixels, and what each polygon brings to the picture."""

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic import clutter, objects
from geoseg.synthetic.clutter import Things
from geoseg.synthetic.layout import Building, Layout
from geoseg.synthetic.plane import aside
from geoseg.synthetic.scan import Edges, cover, edges_of_polygons, edges_of_rings
from geoseg.synthetic.style import MATERIALS, Style, varied
from geoseg.synthetic.trees import plant
from geoseg.windows import Window

LOW = 6.0
"""Metres: taller buildings throw their shadow over the roofs of lower ones."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Polygons in pixel coordinates and what each brings, channel by channel."""

    edges: Edges
    values: np.ndarray
    """(C, polygons) float64: red, green, blue, then what the layer needs."""
    rank: np.ndarray
    """(polygons,) int64: where polygons overlap the higher rank hides the lower; equal ones mix."""

    def mixed(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """(C, h, w) value of the polygons on each pixel, and (h, w) how much of it they cover, at most 1."""
        # A rank outweighs the one below it: the running sums of all polygons need no order.
        heft = 30.0**self.rank
        sums = cover(self.edges, np.vstack([self.values * heft, heft, np.ones_like(heft)]), window)
        return sums[:-2] / np.maximum(sums[-2], 1e-3), np.clip(sums[-1], 0, 1)


@dataclass(frozen=True, slots=True)
class Shadows:
    """Outlines of what the sun does not reach."""

    buildings: Edges
    """Of buildings on the ground."""
    tall: Edges
    """Of tall buildings on low roofs."""
    trees: Edges
    cars: Edges


@dataclass(frozen=True, slots=True)
class Layers:
    """All of a town, from the ground up."""

    blocks: Layer
    """One channel: how much greener than the town a block is."""
    trodden: Edges
    """Bare ground round buildings."""
    gardens: Layer
    litter: Layer
    verges: Layer
    streets: Layer
    """Fourth channel: 1 for dirt, 0 for asphalt."""
    markings: Layer
    cars: Layer
    glass: Layer
    roofs: Layer
    """Channels from the fourth: strength and wave vector of ripples, wear, 1 for low buildings."""
    parapets: tuple[Edges, Edges]
    """Of flat roofs: all within the parapet, and the part of it that the parapet does not shade."""
    furniture: Layer
    crowns: Layer
    lit: Edges
    """The sunny parts of crowns."""
    shadows: Shadows


def make_layers(layout: Layout, style: Style, gsd: float, rng: np.random.Generator) -> Layers:
    """Everything that is drawn, outlines in pixels of `gsd` metres."""
    pixels = _Pixels(gsd, style.shadow)
    trees = plant(layout, style, rng)
    cars, glass = objects.cars(layout, rng)
    crowns = pixels.rings(trees.crowns)
    heights = np.array([building.height for building in layout.buildings])
    tall = heights > 1.6 * LOW
    bodies = pixels.things(cars)
    verges, streets = _streets(layout, style, pixels, rng)
    return Layers(
        blocks=_blocks(layout, pixels, rng),
        trodden=pixels.polygons(shapely.buffer(layout.footprints, 1.5, quad_segs=2)),
        gardens=pixels.things(clutter.gardens(layout, style, rng)),
        litter=pixels.things(clutter.litter(layout, style, rng)),
        verges=verges,
        streets=streets,
        markings=pixels.things(clutter.markings(layout, rng)),
        cars=bodies,
        glass=pixels.things(glass),
        roofs=_roofs(layout.buildings, style, pixels, rng),
        parapets=_parapets(layout, pixels),
        furniture=pixels.things(objects.furniture(layout, style, rng)),
        crowns=Layer(crowns, trees.colors.T, np.zeros(len(trees.crowns), np.int64)),
        lit=pixels.rings(trees.lit),
        shadows=Shadows(
            buildings=pixels.walls_shadow(layout.footprints, heights),
            tall=pixels.walls_shadow(layout.footprints[tall], heights[tall] - 0.7 * LOW),
            trees=pixels.shifted(crowns, 0.7 * trees.height),
            cars=pixels.shifted(bodies.edges, np.full(len(cars.rings), 1.0)),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Pixels:
    """From metres to pixels, and to where shadows fall."""

    gsd: float
    shadow: np.ndarray
    """(2,) metres that the shadow of something a metre tall reaches."""

    def rings(self, rings: list[np.ndarray] | np.ndarray) -> Edges:
        edges = edges_of_rings(rings)
        return Edges(edges.ends / self.gsd, edges.owner)

    def polygons(self, polygons: list[shapely.Polygon] | np.ndarray) -> Edges:
        edges = edges_of_polygons(polygons)
        return Edges(edges.ends / self.gsd, edges.owner)

    def things(self, things: Things) -> Layer:
        """Colour, strength of the stripes, and their wave vector per pixel."""
        stripes = np.array(things.stripes).reshape(-1, 3).T
        colors = np.array(things.colors).reshape(-1, 3).T
        values = np.vstack([colors, self.ripples(stripes[0], stripes[1:])])
        return Layer(self.rings(things.rings), values, np.array(things.ranks, np.int64))

    def ripples(self, strength: np.ndarray, wave: np.ndarray) -> np.ndarray:
        """(3, P) strength and wave vector in radians per pixel; ripples under 2.5 pixels are coarsened and fade."""
        wave = wave * self.gsd
        fine = np.maximum(np.hypot(*wave) / (2 * np.pi / 2.5), 1)
        return np.vstack([strength / fine, wave / fine])

    def shifted(self, edges: Edges, height: np.ndarray) -> Edges:
        """Outlines where their shadows fall."""
        return Edges(edges.ends + np.tile(height[:, None] * self.shadow / self.gsd, 2)[edges.owner], edges.owner)

    def walls_shadow(self, footprints: np.ndarray, height: np.ndarray) -> Edges:
        """What upright walls keep the sun from: every edge swept along the shadow, and the roof's own shadow."""
        edges = self.polygons(footprints)
        shift = (height[:, None] * self.shadow / self.gsd)[edges.owner]
        a, b = edges.ends[:, :2], edges.ends[:, 2:]
        swept = edges_of_rings(np.stack([a, b, b + shift, a + shift], axis=1))
        roof = self.shifted(edges, height)
        return Edges(np.concatenate([swept.ends, roof.ends]), np.zeros(len(swept.ends) + len(roof.ends), np.int64))


def _blocks(layout: Layout, pixels: _Pixels, rng: np.random.Generator) -> Layer:
    greener = {"park": 0.45, "fields": 0.25, "village": 0.15, "houses": 0.1, "informal": -0.35, "halls": -0.45}
    lean = [greener.get(block.kind, -0.1) + rng.normal(0, 0.15) for block in layout.blocks]
    lands = pixels.polygons([block.land for block in layout.blocks])
    return Layer(lands, np.array([lean]), np.zeros(len(lean), np.int64))


def _streets(layout: Layout, style: Style, pixels: _Pixels, rng: np.random.Generator) -> tuple[Layer, Layer]:
    """Verges or pavements, and the carriageways; both in the colours of each street."""
    streets = layout.streets
    count = len(streets.lines)
    # One colour each: where two streets of a rank meet, the round end of one must not show on the other.
    color = np.where(streets.dirt[:, None], style.dirt, style.asphalt)
    paved = ~streets.dirt & (rng.random(count) < 0.75)
    beside = np.where(paved[:, None], 1.05 * style.ground["paving"], style.ground["soil"]) + rng.normal(
        0, 5, (count, 1)
    )
    wide = streets.width / 2 + np.where(paved, rng.uniform(0.8, 2.6, count), rng.uniform(0.3, 1.5, count))
    # At junctions main roads run through, paved streets end on them, dirt ends on both.
    rank = 2 * streets.main.astype(np.int64) + ~streets.dirt
    outer = pixels.polygons(shapely.buffer(streets.lines, wide, quad_segs=4))
    inner = pixels.polygons(shapely.buffer(streets.lines, streets.width / 2, quad_segs=6))
    return Layer(outer, beside.T, rank), Layer(inner, np.vstack([color.T, streets.dirt]), rank)


def _roofs(buildings: list[Building], style: Style, pixels: _Pixels, rng: np.random.Generator) -> Layer:
    """Colour by covering and slope, ripples of tiles or sheets, wear."""
    rings, columns = [], []
    for building in buildings:
        material = MATERIALS[building.material]
        color = varied(material.color, rng, material.spread, material.spread / 5)
        pitch = 0.0 if building.shape.level else rng.uniform(0.18, 0.6)
        tin = material.pattern == "tin"
        period = {"tin": rng.uniform(0.7, 1.6), "tile": 0.4, "plain": rng.uniform(1, 4)}[material.pattern]
        strength = {"tin": rng.uniform(0.03, 0.14), "tile": 0.07, "plain": rng.uniform(0, 0.03)}[material.pattern]
        wear = rng.beta(1.2, 3) if tin else 0.6 * rng.beta(1, 3)
        for face in building.shape.faces:
            light = np.cos(pitch) + np.sin(pitch) * (face.fall @ style.sunward) / np.tan(style.sun[1])
            shade = 0.45 + 0.55 * max(light, 0.0) + rng.normal(0, 0.02)
            across = aside(face.fall) if tin else face.fall
            wave = across * 2 * np.pi / period
            rings.append(face.ring)
            columns.append([*(color * shade), strength, *wave, wear, building.height < LOW])
    values = np.array(columns, dtype=float).reshape(-1, 8).T
    values[3:6] = pixels.ripples(values[3], values[4:6])
    return Layer(pixels.rings(rings), values, np.zeros(len(rings), np.int64))


def _parapets(layout: Layout, pixels: _Pixels) -> tuple[Edges, Edges]:
    flat = np.array([b.shape.level for b in layout.buildings], dtype=bool)
    inner = shapely.buffer(layout.footprints[flat], -0.4, join_style="mitre")
    sunny = shapely.intersection(inner, shapely.transform(inner, lambda points: points + 0.7 * pixels.shadow))
    return pixels.polygons(_polygons(inner)), pixels.polygons(_polygons(sunny))


def _polygons(shapes: np.ndarray) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(shapes) if part.geom_type == "Polygon" and not part.is_empty]
