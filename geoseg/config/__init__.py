"""The YAML files of `configs/` as pydantic models: strict, and every refusal names file, key and what was expected."""

from geoseg.config.fields import Box
from geoseg.config.heads import PALETTE, ClassConfig, HeadConfig
from geoseg.config.reading import dump_config, load_config, parse_change, resolve_path
from geoseg.config.schema import AugmentationConfig, DataConfig, OptimizerConfig, TrainConfig
from geoseg.config.sources import TRAINING_SEEDS, FolderSource, SceneSource, TownSource

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
