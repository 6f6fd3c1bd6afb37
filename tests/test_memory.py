"""Memory does not grow with the scene. The full sizes are in tests/benchmarks."""

import pytest

from tests.benchmarks.__main__ import subject
from tests.benchmarks.inputs import write_checkpoint, write_scene


@pytest.mark.slow
def test_peak_memory_is_flat_in_height_and_width(tmp_path):
    model = write_checkpoint(tmp_path / "trivial.safetensors", width=1, depth=1)
    peaks = {}
    for shape in [(3000, 3000), (2000, 16000), (16000, 2000)]:
        scene = write_scene(tmp_path / "scene.tif", shape)
        peaks[shape] = subject("predict", scene, model, tmp_path / "out.tif", "float32", "", "threads=1")["rss"]
    # Equal runs differ by 3 %. The goal of 5 % is held by medians in the benchmark, on larger scenes.
    assert max(peaks.values()) <= 1.08 * peaks[3000, 3000], peaks
