"""Pixels: what the values of stored rasters mean. Apart from what computes them, which takes a second to import."""

NODATA = 255
"""The value of invalid pixels in every uint8 output; in a float32 one it is NaN."""
PROBABILITY_SCALE = 254
"""Probabilities are stored as round(254 p), so that 127 is exactly one half and 255 is left for nodata."""
