"""Synthetic towns: exact labels as vectors, and the picture painted from them.

`geoseg.synthetic.files` writes a town as a scene and its labels, `geoseg.synthetic.picture` shows it with a prediction;
drawing alone needs neither rasterio nor torch nor matplotlib.
"""

from geoseg.synthetic.town import CLASSES, DEMO_SEED, Town, draw_town

__all__ = ["CLASSES", "DEMO_SEED", "Town", "draw_town"]
