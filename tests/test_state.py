"""Files of a run's state: exact, whole, and without code."""

import json
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import OutputError, ResumeError
from geoseg.training.state import FOLDER, load_state, newest_state, save_state


def some(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "network": {"a.weight": torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)},
        "optimizer": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(5, generator=generator)}, 7: {}},
        "scalar": torch.tensor(2, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3, generator=generator).bfloat16(),
        "standing": {"best": 0.1 + 0.2, "none": None, "rows": [{"a": "1"}], "names": ["x", "ü"], "flag": True},
    }


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


def test_what_was_saved_comes_back_in_the_same_layout(tmp_path):
    path = save_state(tmp_path, 3, some())
    found = load_state(path)
    assert equal(some(), found)
    assert found["network"]["a.weight"].is_contiguous(memory_format=torch.channels_last)
    assert path == tmp_path / FOLDER / "epoch-0003.safetensors"


@given(order=st.permutations(range(4)), shape=st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_any_dense_layout_comes_back(tmp_path_factory, order, shape):
    tensor = torch.randn(shape).permute(order)
    found = load_state(save_state(tmp_path_factory.mktemp("s"), 1, {"x": tensor}))["x"]
    assert torch.equal(found, tensor)
    moved = [axis for axis in range(4) if tensor.shape[axis] > 1]
    assert [found.stride(axis) for axis in moved] == [tensor.stride(axis) for axis in moved]


def test_two_are_kept_and_the_newest_is_taken(tmp_path):
    for epoch in (8, 9, 10, 11):
        save_state(tmp_path, epoch, {"epoch": epoch})
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [
        "epoch-0010.safetensors", "epoch-0011.safetensors",
    ]  # fmt: skip
    assert newest_state(tmp_path) == {"epoch": 11}
    assert newest_state(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header", "foreign"])
def test_a_damaged_state_is_passed_over_and_told(tmp_path, damage, warnings):
    save_state(tmp_path, 1, some(1))
    path = save_state(tmp_path, 2, some(2))
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            content = content[: len(content) // 2]
        case "flip":
            content[-5] ^= 1
        case "empty":
            content = bytearray()
        case "header":
            content[30] ^= 255
        case "foreign":
            content = bytearray(b"PK\x03\x04" + bytes(200))
    path.write_bytes(content)
    assert equal(newest_state(tmp_path), some(1))
    assert "epoch-0002.safetensors is damaged" in warnings[-1]
    assert "The one before it is taken" in warnings[-1]
    for state in (tmp_path / FOLDER).iterdir():
        state.write_bytes(b"")
    with pytest.raises(ResumeError, match="no state that can be read"):
        newest_state(tmp_path)


def test_an_unfinished_file_is_no_state(tmp_path):
    save_state(tmp_path, 1, some())
    (tmp_path / FOLDER / "epoch-0002.part").write_bytes(b"half")
    assert equal(newest_state(tmp_path), some())


def test_a_state_is_plain_safetensors(tmp_path):
    content = save_state(tmp_path, 1, some()).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) == {"__metadata__", "/network/a.weight", "/optimizer/0/step", "/optimizer/0/exp_avg",
                           "/scalar", "/empty", "/half"}  # fmt: skip
    assert json.loads(header["__metadata__"]["geoseg_state"])["standing"] == some()["standing"]


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_full_disk_is_told_and_leaves_the_state_before(tmp_path, monkeypatch):
    save_state(tmp_path, 1, some(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geoseg.training.state.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_state(tmp_path, 2, some(2))
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["epoch-0001.safetensors"]
    assert equal(newest_state(tmp_path), some(1))
