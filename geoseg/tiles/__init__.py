"""Labelled tiles: scenes and labels cut into images and targets with true georeference, a manifest and a split."""

from geoseg.tiles.cutting import tile_scenes
from geoseg.tiles.options import LabelOptions, TileOptions
from geoseg.tiles.tiling import Tiling

__all__ = ["LabelOptions", "TileOptions", "Tiling", "tile_scenes"]
