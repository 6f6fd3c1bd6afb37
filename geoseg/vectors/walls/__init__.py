"""Straight walls for buildings: see `fit_walls`."""

from geoseg.vectors.walls.fit import METHODS, Angles, Footprints, fit_walls

__all__ = ["METHODS", "Angles", "Footprints", "fit_walls"]
