"""Sources: labelled ground from folders, scenes and towns, split into what is learnt and what is held back."""

from geoseg.training.ground import pixels_per_class
from geoseg.training.sources.data import Data, load_data
from geoseg.training.sources.pairs import find_pairs

__all__ = ["Data", "find_pairs", "load_data", "pixels_per_class"]
