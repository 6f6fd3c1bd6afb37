"""Pixels of a town: layers from the ground up, then air and sensor. A window gets the pixels of the whole picture."""

from functools import cache

import numpy as np
from scipy import ndimage

from geoseg.synthetic.layers import Layer, Layers
from geoseg.synthetic.noise import Noise
from geoseg.synthetic.scan import Edges, cover
from geoseg.synthetic.style import Style
from geoseg.windows import Window

BLUR_MARGIN = 4
"""Pixels painted round a window, so that the point spread function has its neighbours: 4 sigma at the most."""


def paint(layers: Layers, style: Style, noise: Noise, window: Window) -> np.ndarray:
    """(3, height, width) uint8 RGB, 1..255: 0 is left to pixels without data."""
    canvas = _Canvas(style, noise, window.expand(BLUR_MARGIN))
    canvas.ground(layers)
    canvas.lay(layers.gardens)
    canvas.lay(layers.litter)
    canvas.pave(layers)
    leaves = canvas.covered(layers.shadows.trees)
    shaded = np.maximum(canvas.covered(layers.shadows.buildings), 0.85 * leaves)
    shaded = np.maximum(shaded, canvas.covered(layers.shadows.cars))
    canvas.lay(layers.cars)
    canvas.lay(layers.glass)
    canvas.darken(shaded)
    canvas.roof(layers, leaves)
    canvas.plant(layers)
    return canvas.exposed()


class _Canvas:
    """A window's picture in the making: (3, height, width) float32, 0..255 and beyond."""

    def __init__(self, style: Style, noise: Noise, window: Window) -> None:
        self._style, self._window = style, window
        self._smooth = cache(lambda name: noise.smooth(window, name))
        self._white = lambda shift: noise.white(window, shift)
        self._x = np.arange(window.col, window.stop_col, dtype=np.float32)[None, :] + 0.5
        self._y = np.arange(window.row, window.stop_row, dtype=np.float32)[:, None] + 0.5
        self._picture = np.zeros((3, *window.shape), np.float32)

    def covered(self, edges: Edges) -> np.ndarray:
        """(height, width) float32: how much of each pixel the polygons cover, at most 1."""
        count = int(edges.owner.max()) + 1 if len(edges.owner) else 0
        return np.clip(cover(edges, np.ones((1, count)), self._window)[0], 0, 1)

    def _blend(self, color: np.ndarray, alpha: np.ndarray) -> None:
        self._picture += alpha * (color - self._picture)

    def ground(self, layers: Layers) -> None:
        """Soil, grass and dry grass in patches."""
        style = self._style
        lean = cover(layers.blocks.edges, layers.blocks.values, self._window)[0] - 0.3 * self.covered(layers.trodden)
        meadow, lawn, tuft = self._smooth("meadow"), self._smooth("lawn"), self._smooth("tuft")
        grass = _step(style.green - 0.5 + lean + 0.28 * meadow + 0.16 * lawn + 0.06 * tuft, 0.12)
        dry = 0.7 * _step(0.5 * meadow - 0.7 * lawn + 0.2 * tuft - 0.35, 0.5)
        self._picture[:] = _column(style.ground["soil"])
        self._blend(_column(style.ground["grass"]), grass)
        self._blend(_column(style.ground["dry"]), dry)
        self._picture *= 1 + 0.05 * meadow + 0.05 * lawn + (0.04 + 0.05 * grass) * tuft + 0.05 * self._white(0)

    def lay(self, layer: Layer) -> None:
        """Things on top, striped as they say."""
        values, alpha = layer.mixed(self._window)
        strength, kx, ky = values[3:]
        ripple = 1 + strength * np.sin(kx * self._x + ky * self._y)
        ripple *= 1 + 0.06 * self._smooth("lawn") + 0.05 * self._white(2)
        self._blend(values[:3] * ripple, alpha)

    def pave(self, layers: Layers) -> None:
        """Verges, carriageways (the edges of dirt roads frayed), markings worn off in places."""
        stain, grime = self._smooth("stain"), self._smooth("grime")
        verge, alpha = layers.verges.mixed(self._window)
        self._blend(verge * (1 + 0.05 * grime + 0.05 * stain), 0.75 * alpha)
        surface, alpha = layers.streets.mixed(self._window)
        dirt = surface[3]
        frayed = np.clip(alpha * (1.15 + dirt * (0.35 * grime - 0.35 * np.maximum(stain, 0))), 0, 1)
        self._blend(surface[:3] * (1 + 0.05 * stain + (0.02 + 0.05 * dirt) * grime + 0.03 * self._white(3)), frayed)
        lines, alpha = layers.markings.mixed(self._window)
        self._blend(lines[:3], alpha * np.clip(0.75 + 0.3 * stain, 0.1, 0.95))

    def darken(self, shaded: np.ndarray) -> None:
        """Sky light only, bluer than the sun's."""
        dark = self._style.camera.dark_sky
        for channel, sky in zip(self._picture, (0.92, 1.0, 1.14), strict=True):
            channel *= 1 - shaded * (1 - dark * sky)

    def roof(self, layers: Layers, leaves: np.ndarray) -> None:
        """Roofs, what stands on them, and the shadows of taller buildings and of trees."""
        values, alpha = layers.roofs.mixed(self._window)
        strength, kx, ky, wear, low = values[3:]
        stain, grime = self._smooth("stain"), self._smooth("grime")
        ripple = strength * np.sin(kx * self._x + ky * self._y)
        worn = wear * _step(0.8 * stain + 0.6 * grime + 0.6 * ripple - 0.2, 0.9)
        roof = values[:3] * (1 + ripple + 0.03 * grime + 0.03 * stain)
        roof += worn * (_column((30, 20, 14)) - 0.38 * roof)
        inner, sunny = (self.covered(edges) for edges in layers.parapets)
        roof *= (1.04 - 0.42 * inner + 0.35 * sunny) * (1 + 0.02 * self._white(4))
        self._blend(roof, alpha)
        self.lay(layers.furniture)
        self.darken(alpha * low * self.covered(layers.shadows.tall))
        self.darken(0.45 * alpha * leaves * _step(stain + 0.3, 0.6))

    def plant(self, layers: Layers) -> None:
        """Crowns: darker below and at the rim, lit towards the sun, speckled with leaves."""
        color, alpha = layers.crowns.mixed(self._window)
        leaf, tuft = self._smooth("leaf"), self._smooth("tuft")
        light = (0.64 + 0.50 * self.covered(layers.lit)) * (1 + 0.20 * leaf + 0.10 * tuft + 0.12 * self._white(5))
        self._blend(color * light, np.clip(alpha * (1.05 + 0.25 * leaf), 0, 1))

    def exposed(self) -> np.ndarray:
        """Point spread, haze, cast, tone curve and noise; (3, height, width) uint8 without the margin."""
        camera, margin = self._style.camera, slice(BLUR_MARGIN, -BLUR_MARGIN)
        for channel in self._picture:
            ndimage.gaussian_filter(channel, camera.blur, output=channel, truncate=4.0)
        grey = self._picture.mean(axis=0)
        image = grey + camera.saturation * (self._picture - grey)
        image += camera.haze * (_column((168, 178, 192)) - image)
        image = (image - 118) * camera.contrast + 118
        image *= _column(camera.gain) * camera.brightness * (1 + 0.03 * self._smooth("light"))
        image = 255 * np.clip(image / 255, 0, 1) ** camera.gamma
        image += camera.noise * 0.8 * self._white(6)
        for channel, shift in zip(image, (7, 8, 9), strict=True):
            channel += camera.noise * 0.6 * self._white(shift)
        return np.clip(np.rint(image[:, margin, margin]), 1, 255).astype(np.uint8)


def _column(color: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """(3, 1, 1) float32."""
    return np.asarray(color, np.float32)[:, None, None]


def _step(x: np.ndarray, soft: float) -> np.ndarray:
    """0 well below zero, 1 well above, smooth within `soft`."""
    t = np.clip(x / (2 * soft) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)
