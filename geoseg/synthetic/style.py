"""What a town is made of: climates, and one town's style drawn from them. Colours are sRGB 0..255, lengths metres."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T", bound=Hashable)
RGB = tuple[float, float, float]
Choice = dict[str, float]
"""Names and how often each is taken."""


@dataclass(frozen=True, slots=True)
class Material:
    """A roof covering."""

    color: RGB
    pattern: str = "plain"
    """plain, tile (courses along the eaves) or tin (sheets down the slope, patches, rust)."""
    spread: float = 12.0
    """How much the colour differs from one roof to the next."""


MATERIALS = {
    "red_tile": Material((166, 92, 66), "tile", 20),
    "orange_tile": Material((196, 120, 76), "tile", 20),
    "brown_tile": Material((118, 92, 78), "tile", 16),
    "grey_tile": Material((104, 104, 108), "tile", 16),
    "shingle": Material((128, 122, 114), "plain", 22),
    "dark_shingle": Material((84, 80, 78), "plain", 14),
    "tin": Material((198, 202, 206), "tin", 18),
    "old_tin": Material((152, 140, 130), "tin", 22),
    "rusty_tin": Material((132, 90, 68), "tin", 22),
    "blue_tin": Material((62, 130, 190), "tin", 26),
    "red_tin": Material((158, 56, 58), "tin", 22),
    "green_tin": Material((58, 112, 92), "tin", 20),
    "concrete": Material((172, 168, 160), "plain", 20),
    "grey_flat": Material((136, 134, 132), "plain", 24),
    "bitumen": Material((82, 82, 86), "plain", 14),
    "white_flat": Material((220, 218, 212), "plain", 12),
    "sand_flat": Material((196, 180, 152), "plain", 16),
    "thatch": Material((134, 116, 90), "plain", 14),
}


@dataclass(frozen=True, slots=True)
class Climate:
    """Where in the world the town lies."""

    ground: dict[str, RGB]
    """Colours of grass, dry grass, soil and paving."""
    green: tuple[float, float]
    """Share of ground that is grass rather than soil, from and to."""
    roofs: Choice
    """Materials of houses."""
    blocks: Choice
    """Kinds of blocks: houses, village, terraces, courtyards, slabs, halls, informal, fields, park."""
    dirt_roads: float
    """Share of side streets without asphalt."""
    trees: tuple[float, float]
    """Trees per 1000 m2 of open ground, from and to."""
    palms: float = 0.0
    """Share of trees that are palms."""
    leaf: RGB = (66, 88, 46)
    flat: float = 0.2
    """Share of houses with flat roofs."""
    tanks: float = 0.0
    """Share of flat roofs with water tanks."""


CLIMATES = {
    "europe": Climate(
        ground={"grass": (98, 116, 66), "dry": (142, 138, 96), "soil": (134, 116, 94), "paving": (150, 146, 140)},
        green=(0.55, 0.95),
        roofs={"red_tile": 5, "orange_tile": 2, "brown_tile": 2, "grey_tile": 2, "bitumen": 1, "tin": 0.3},
        blocks={"houses": 4, "terraces": 4, "courtyards": 2, "slabs": 1.5, "halls": 1.5, "fields": 0.8, "park": 1},
        dirt_roads=0.05,
        trees=(4, 16),
        flat=0.15,
    ),
    "suburb": Climate(
        ground={"grass": (104, 118, 76), "dry": (150, 142, 104), "soil": (142, 124, 104), "paving": (166, 162, 156)},
        green=(0.5, 0.9),
        roofs={"shingle": 5, "dark_shingle": 3, "brown_tile": 2, "white_flat": 1, "tin": 0.5},
        blocks={"houses": 7, "terraces": 1, "slabs": 1.5, "halls": 2, "fields": 0.6, "park": 1},
        dirt_roads=0.03,
        trees=(4, 18),
        flat=0.08,
    ),
    "africa": Climate(
        ground={"grass": (98, 112, 58), "dry": (150, 136, 92), "soil": (168, 112, 78), "paving": (176, 152, 128)},
        green=(0.2, 0.7),
        roofs={
            "tin": 6,
            "old_tin": 3,
            "rusty_tin": 3,
            "red_tin": 2,
            "blue_tin": 1,
            "orange_tile": 1.5,
            "green_tin": 0.6,
        },
        blocks={
            "houses": 4,
            "village": 3,
            "informal": 4,
            "terraces": 1,
            "halls": 1,
            "slabs": 1,
            "fields": 1.5,
            "park": 0.6,
        },
        dirt_roads=0.75,
        trees=(3, 16),
        palms=0.1,
        flat=0.05,
    ),
    "tropics": Climate(
        ground={"grass": (94, 116, 58), "dry": (140, 136, 88), "soil": (150, 128, 98), "paving": (176, 172, 162)},
        green=(0.6, 1.0),
        roofs={"blue_tin": 3, "tin": 4, "old_tin": 3, "red_tin": 2, "green_tin": 1, "rusty_tin": 2, "thatch": 1.2},
        blocks={
            "houses": 4,
            "village": 3,
            "informal": 2.5,
            "terraces": 1,
            "halls": 1,
            "slabs": 0.6,
            "fields": 1.6,
            "park": 1,
        },
        dirt_roads=0.45,
        trees=(10, 32),
        palms=0.4,
        leaf=(56, 84, 38),
        flat=0.08,
    ),
    "arid": Climate(
        ground={"grass": (112, 116, 78), "dry": (178, 160, 124), "soil": (196, 172, 138), "paving": (186, 176, 160)},
        green=(0.0, 0.25),
        roofs={"sand_flat": 5, "white_flat": 4, "concrete": 3, "grey_flat": 1.5, "orange_tile": 1.5},
        blocks={"houses": 4, "terraces": 3, "courtyards": 3, "slabs": 2, "halls": 1.5, "fields": 0.5, "park": 0.8},
        dirt_roads=0.3,
        trees=(0.5, 6),
        palms=0.5,
        flat=0.85,
        tanks=0.25,
    ),
    "highland": Climate(
        ground={"grass": (100, 108, 66), "dry": (150, 136, 102), "soil": (156, 132, 108), "paving": (156, 150, 142)},
        green=(0.3, 0.8),
        roofs={"concrete": 5, "grey_flat": 4, "old_tin": 2, "blue_tin": 1.6, "tin": 1.5, "orange_tile": 1},
        blocks={"houses": 4, "informal": 4, "terraces": 3, "courtyards": 0.8, "slabs": 1, "halls": 0.6, "fields": 2.5},
        dirt_roads=0.4,
        trees=(3, 14),
        flat=0.75,
        tanks=0.5,
    ),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """What the light, the air and the sensor do to the colours."""

    contrast: float
    brightness: float
    gain: RGB
    """Colour cast, by channel."""
    saturation: float
    haze: float
    """Share of a flat bluish grey mixed in."""
    gamma: float
    blur: float
    """Sigma of the point spread function in pixels."""
    noise: float
    """Sigma of the sensor noise in grey levels."""
    dark_sky: float
    """Light left in the shade."""


@dataclass(frozen=True, slots=True)
class Style:
    """One town's own look: a climate, its hues moved, and how the picture was taken."""

    climate: Climate
    ground: dict[str, np.ndarray]
    """The climate's ground colours, moved."""
    green: float
    """Share of open ground that is grass."""
    trees: float
    """Trees per 1000 m2 of open ground."""
    leaf: np.ndarray
    asphalt: np.ndarray
    dirt: np.ndarray
    """Of dirt roads."""
    blocks: Choice
    roofs: Choice
    scale: float
    """Factor on block sizes and street distances."""
    sun: tuple[float, float]
    """Where the sun stands: radians from the picture's right towards its foot, and radians above the horizon."""
    camera: Camera

    @property
    def sunward(self) -> np.ndarray:
        """(2,) unit vector on the ground towards the sun."""
        return np.array([np.cos(self.sun[0]), np.sin(self.sun[0])])

    @property
    def shadow(self) -> np.ndarray:
        """(2,) metres from the foot of something a metre tall to its shadow's end."""
        away: np.ndarray = -self.sunward / np.tan(self.sun[1])
        return away


def draw_style(rng: np.random.Generator) -> Style:
    """A style for one town; hues, greenness, light and camera differ widely from draw to draw."""
    climate = CLIMATES[pick(dict.fromkeys(CLIMATES, 1.0), rng)]
    other = CLIMATES[pick(dict.fromkeys(CLIMATES, 1.0), rng)]
    mix = rng.uniform(0, 0.35)
    tint = varied((0, 0, 0), rng, 6, 3)
    ground = {
        name: varied(np.array(color) * (1 - mix) + np.array(other.ground[name]) * mix, rng, 7, 3) + tint
        for name, color in climate.ground.items()
    }
    return Style(
        climate=climate,
        ground=ground,
        green=rng.uniform(*climate.green),
        trees=rng.uniform(*climate.trees),
        leaf=varied(np.array(climate.leaf) * rng.uniform(0.75, 1.2), rng, 5, 4),
        asphalt=varied((2, 0, -2), rng, 0, 3) + rng.uniform(84, 155),
        dirt=varied(ground["soil"] * rng.uniform(1.0, 1.22), rng, 4, 3),
        blocks=_jitter(climate.blocks, rng),
        roofs=_jitter(climate.roofs, rng),
        scale=rng.uniform(0.75, 1.25),
        sun=(rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(36, 70))),
        camera=_draw_camera(rng),
    )


def _draw_camera(rng: np.random.Generator) -> Camera:
    cast = rng.normal(1, 0.03, 3)
    return Camera(
        contrast=rng.uniform(0.8, 1.2),
        brightness=rng.uniform(0.78, 1.15),
        gain=(cast[0], cast[1], cast[2]),
        saturation=rng.uniform(0.6, 1.12),
        haze=rng.uniform(0, 0.22) if rng.random() < 0.6 else 0.0,
        gamma=rng.uniform(0.85, 1.2),
        blur=rng.uniform(0.35, 0.95),
        noise=rng.uniform(0.8, 5.0),
        dark_sky=rng.uniform(0.25, 0.55),
    )


def varied(color: RGB | np.ndarray, rng: np.random.Generator, light: float, hue: float) -> np.ndarray:
    """(3,) the colour, lighter or darker by about `light`, each channel off by about `hue` besides."""
    return np.asarray(color, dtype=float) + rng.normal(0, light) + rng.normal(0, hue, 3)


def _jitter(choice: Choice, rng: np.random.Generator) -> Choice:
    return {name: often * rng.lognormal(0, 0.6) for name, often in choice.items()}


def pick(choice: Mapping[T, float], rng: np.random.Generator) -> T:
    """One of the keys, as often as it says."""
    often = np.cumsum(list(choice.values()))
    return list(choice)[int(np.searchsorted(often, rng.uniform(0, often[-1]), side="right"))]
