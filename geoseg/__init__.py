"""geoseg: buildings and roads from aerial imagery.

The names below are the Python API; each is imported when first used, so that `import geoseg` costs nothing.

    predict_scene(scene, model)                 class raster and vectors; Products, Settings, Prediction
    vectorize_raster(raster)                    buildings, streets, areas; OutlineOptions, Vectors
    tile_scenes(scenes, labels, folder)         labelled tiles; TileOptions, LabelOptions
    train_model(load_config(file), folder)      a checkpoint from labelled data; TrainConfig
    compare_runs(folders)                       runs side by side; Comparison
    evaluate_prediction(predicted, reference)   scores of a raster; Evaluation
    evaluate_vectors(predicted, reference)      scores of buildings and roads, object by object

Each does what the command of that verb does. `geoseg.evaluate` and `geoseg.training` are modules, not functions.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_API = {
    "predict_scene": "geoseg.pipeline",
    "Products": "geoseg.pipeline",
    "Settings": "geoseg.pipeline",
    "Prediction": "geoseg.pipeline",
    "vectorize_raster": "geoseg.vectors",
    "Vectors": "geoseg.vectors",
    "OutlineOptions": "geoseg.vectors",
    "tile_scenes": "geoseg.tiles",
    "TileOptions": "geoseg.tiles",
    "LabelOptions": "geoseg.tiles",
    "train_model": "geoseg.training.fit",
    "load_config": "geoseg.config",
    "TrainConfig": "geoseg.config",
    "compare_runs": "geoseg.compare",
    "Comparison": "geoseg.compare",
    "evaluate_prediction": "geoseg.evaluate",
    "evaluate_vectors": "geoseg.evaluate",
    "Evaluation": "geoseg.evaluate",
    "load_checkpoint": "geoseg.checkpoint",
    "resolve_model": "geoseg.checkpoint",
    "Scene": "geoseg.scene",
    "Grid": "geoseg.grid",
    "Window": "geoseg.windows",
    "Plan": "geoseg.windows",
    "draw_town": "geoseg.synthetic",
    "GeosegError": "geoseg.errors",
}

__all__ = [*_API, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module 'geoseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
