"""Directions in the plane: x right, y down, angles in radians from x towards y."""

import numpy as np
import shapely


def rotation(angle: float) -> np.ndarray:
    """(2, 2): its rows are the directions that x and y turn to, so it turns (N, 2) points from their right."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def direction(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(2,) unit vector from a to b; zero if they coincide."""
    ahead: np.ndarray = (b - a) / max(np.hypot(*(b - a)), 1e-9)
    return ahead


def aside(ahead: np.ndarray) -> np.ndarray:
    """The vector turned a quarter, from x towards y."""
    return np.array([-ahead[1], ahead[0]])


def heading(ahead: np.ndarray) -> float:
    """The angle of a vector."""
    return float(np.arctan2(ahead[1], ahead[0]))


def long_side(polygon: shapely.Polygon) -> float:
    """The angle of the long side of the smallest rectangle round a polygon."""
    sides = np.diff(shapely.get_coordinates(shapely.oriented_envelope(polygon)), axis=0)
    return heading(sides[np.argmax(np.hypot(*sides.T))])
