"""The files of configs/: each is read, fits the schema, says how it is used, and makes a step as it is called there."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from affine import Affine
from checkpoints import CLASSES, write_checkpoint
from click.testing import CliRunner
from labelled import GSD, LEFT, TOP, write_raster

from geoseg.checkpoint import load_checkpoint
from geoseg.cli.main import geoseg
from geoseg.config import dump_config, load_config
from geoseg.config.documentation import json_schema

CONFIGS = sorted(set(Path("configs").glob("*.yaml")) - {Path("configs/folds.yaml")})  # which says who sees what
SMALL = ["--epochs", "1", "--batch-size", "2", "--tile-size", "32", "--device", "cpu"]
SMALL += ["--set", "steps_per_epoch=1", "--set", "cell_side=64", "--set", "patience=null"]
NARROW = {"unet": "{width: 2, depth: 2}", "resunet": "{width: 2}", "fcn8s": "{width: 2, norm: true}"}


def write_tiles(folder: Path, count: int = 6, *, classes: int = 2, heights: bool = False) -> Path:
    """images/ and labels/ of 40 x 48, a kilometre apart: a box of each class after the first, or of each height."""
    rng = np.random.default_rng(0)
    for index in range(count):
        image = rng.integers(0, 120, (3, 48, 40), dtype=np.uint8)
        labels = np.zeros((1, 48, 40), np.float32 if heights else np.uint8)
        for value in range(1, classes):
            box = (slice(None), slice(14 * value - 8, 14 * value + 4), slice(6, 26))
            labels[box], image[box] = value, image[box] + 60 * value
        place = {"transform": Affine(GSD, 0, LEFT + 1000 * index, 0, -GSD, TOP)}
        write_raster(folder / "images" / f"tile_{index}.tif", image, **place)
        write_raster(folder / "labels" / f"tile_{index}.tif", labels, **place)
    return folder


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_the_shipped_configs_are_there():
    assert {path.stem for path in CONFIGS} >= {"unet_buildings", "resunet_roads", "unet_height", "finetune"}


def test_it_is_read_and_survives_being_written_out(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_it_fits_the_schema(path):
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(path.read_text()))), json_schema())


def test_it_says_how_it_is_used(path):
    comment = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(rf"geoseg train .*(\\\n#)?.*--config configs/{path.name}", comment)
    assert all(len(line) <= 120 for line in path.read_text().splitlines())


def test_it_makes_a_step(path, tmp_path, monkeypatch):
    """By the command of its comment, on tiles of its own classes; smaller, so that it is quick."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = load_config(path)
    values = config.main_head is None
    tiles = write_tiles(tmp_path / "tiles", classes=len(config.classes), heights=values)
    args = ["train", tiles, "-o", tmp_path / "run", "--config", path, *SMALL]
    said = yaml.safe_load(path.read_text())
    if "arch" in said:
        args += ["--set", f"arch_args={NARROW[said['arch']]}", "--set", "pretrained=null"]
    else:  # it is for going on
        args += ["--init", write_checkpoint(tmp_path / "begun.safetensors", depth=2)]
    done = CliRunner().invoke(geoseg, list(map(str, args)))
    assert done.exit_code == 0, done.output
    header = load_checkpoint(done.stdout.strip()).header
    own = CLASSES if "arch" not in said else () if values else config.classes
    assert [item.name for item in header.classes] == [item.name for item in own]
    assert (tmp_path / "run" / "config.yaml").is_file()
