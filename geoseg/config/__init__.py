"""The YAML files of `configs/` as pydantic models: strict, and every refusal names file, key and what was expected."""

from geoseg.config.reading import dump_config, load_config, parse_change, resolve_path
from geoseg.config.schema import (
    PALETTE,
    TRAINING_SEEDS,
    AugmentationConfig,
    Box,
    ClassConfig,
    DataConfig,
    FolderSource,
    HeadConfig,
    OptimizerConfig,
    SceneSource,
    TownSource,
    TrainConfig,
)

__all__ = [
    "PALETTE",
    "TRAINING_SEEDS",
    "AugmentationConfig",
    "Box",
    "ClassConfig",
    "DataConfig",
    "FolderSource",
    "HeadConfig",
    "OptimizerConfig",
    "SceneSource",
    "TownSource",
    "TrainConfig",
    "dump_config",
    "load_config",
    "parse_change",
    "resolve_path",
]
