"""Synthetic towns: exact labels as vectors, and the picture painted from them."""

from geoseg.synthetic.files import COLORS, TownFiles, make_folder, write_town
from geoseg.synthetic.town import CLASSES, DEMO_SEED, IGNORE, Town, draw_town

__all__ = [
    "CLASSES",
    "COLORS",
    "DEMO_SEED",
    "IGNORE",
    "Town",
    "TownFiles",
    "draw_town",
    "make_folder",
    "write_town",
]
