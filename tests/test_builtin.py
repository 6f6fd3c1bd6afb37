"""The weights that ship: small, licensed, and better than brightness on every held-back real scene."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geoseg.checkpoint import load_checkpoint, resolve_model

ROOT = Path(__file__).parents[1]


def test_unet_is_small_and_says_what_it_is():
    path = resolve_model("unet")
    assert path.stat().st_size <= 10e6
    header = load_checkpoint(path).header
    assert [item.name for item in header.classes] == ["background", "building", "road"]
    assert header.bands == ("red", "green", "blue")
    assert "CC" in header.licence
    assert "OpenStreetMap" in header.origin
    licences = (ROOT / "LICENSE-WEIGHTS").read_text()
    assert path.name in licences


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unet_beats_the_best_brightness_threshold_on_every_held_back_scene(data_folder):
    command = [sys.executable, "tests/benchmarks/score_builtin.py", "unet"]
    env = {**os.environ, "GEOSEG_DATA": str(data_folder)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nairobi_a" in done.stdout
