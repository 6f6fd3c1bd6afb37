"""Straight walls for buildings: see `fit_walls` and `keep_inside`."""

from geoseg.vectors.walls.fit import METHODS, Angles, Footprints, fit_walls
from geoseg.vectors.walls.inside import keep_inside

__all__ = ["METHODS", "Angles", "Footprints", "fit_walls", "keep_inside"]
