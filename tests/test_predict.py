"""A model on a device: what auto means, what is kept of the logits, and that nothing non-finite comes through."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geoseg import predict
from geoseg.batches import Tile
from geoseg.checkpoint import load_checkpoint
from geoseg.errors import DeviceError
from geoseg.predict import NODATA, Placement, Runner, Scores, argmax_planes, resolve_device, resolve_precision

FLOAT32 = Placement(device="cpu", precision="float32")


class Logits(nn.Module):
    """Gives back its input: one class per band."""

    stride = 1

    def forward(self, x):
        return x.float()


def runner_for(model, channels, **options):
    options = {"classes": channels, "placement": FLOAT32} | options
    return Runner(model, mean=[0.0] * channels, std=[1.0] * channels, **options)


def tile_of(data):
    return Tile(data=data, valid=np.ones(data.shape[1:], bool))


# ---- where it runs


def test_auto_is_what_the_machine_has(monkeypatch):
    cuda, mps = torch.cuda, torch.backends.mps
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda **_: True)
    for has_cuda, has_mps, device in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(cuda, "is_available", lambda has=has_cuda: has)
        monkeypatch.setattr(cuda, "device_count", lambda has=has_cuda: int(has))
        monkeypatch.setattr(mps, "is_available", lambda has=has_mps: has)
        placement = Placement.resolve()
        assert placement.device == device
        assert placement.batch_size == (1 if device == "cpu" else 4)


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_on_the_cpu_is_bfloat16_where_it_has_instructions_for_it(monkeypatch, has, precision):
    monkeypatch.setattr(predict, "_cpu_multiplies_bfloat16", lambda: has)
    assert resolve_precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize(("name", "says"), [("gpu", "no device"), ("", "no device"), ("meta", "not supported")])
def test_names_that_are_no_device(name, says):
    with pytest.raises(DeviceError, match=f"device={name!r}.*{says}.*Expected auto, cpu, cuda"):
        resolve_device(name)


def test_devices_this_machine_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0").index == 0
    with pytest.raises(DeviceError, match=r"'cuda:7' is not on this machine \(1 CUDA devices\)"):
        resolve_device("cuda:7")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="mps"):
        resolve_device("mps")


def test_unknown_precision():
    with pytest.raises(DeviceError, match=r"precision='int8'.*float32, bfloat16, float16"):
        resolve_precision("int8", torch.device("cpu"))


def test_malloc_is_tuned_without_harm():
    code = "from geoseg.predict import tune_worker; import torch; tune_worker(); assert torch.get_num_threads() == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- what is kept


@settings(max_examples=40)
@given(
    classes=st.integers(1, 255),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_argmax_by_planes_is_argmax_and_the_first_of_equals_wins(classes, levels, seed, dtype):
    planes = np.random.default_rng(seed).integers(-levels, levels, (classes, 5, 3)).astype(np.float32)  # many are equal
    labels, best = argmax_planes(torch.from_numpy(planes).to(dtype))
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), planes.argmax(0))
    np.testing.assert_array_equal(best.float().numpy(), planes.max(0))


@settings(max_examples=25)
@given(channels=st.integers(2, 6), seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_scores_are_the_softmax_in_254_steps(channels, seed, temperature):
    data = np.random.default_rng(seed).normal(0, 4, (channels, 7, 5)).astype(np.float32)
    runner = runner_for(Logits(), channels, temperature=temperature)
    valid = data[0] > -4
    (scores,) = runner([tile_of(data)], [valid], halo=0, confidence=True, probabilities=True)
    expected = torch.softmax(torch.from_numpy(data).double() / temperature, 0).numpy()
    np.testing.assert_array_equal(scores.labels, np.where(valid, data.argmax(0), NODATA))
    for name, wanted in {"confidence": expected.max(0), "probabilities": expected}.items():
        got = scores.arrays()[name]
        assert got.dtype == np.uint8
        assert (got[..., ~valid] == NODATA).all()
        assert got[..., valid].max(initial=0) <= 254
        assert np.abs(got[..., valid] - wanted[..., valid] * 254).max(initial=0) <= 0.5 + 1e-3


def test_an_even_choice_is_exactly_one_half():
    (scores,) = runner_for(Logits(), 2)(
        [tile_of(np.zeros((2, 3, 3), np.float32))], [np.ones((3, 3), bool)], halo=0, confidence=True
    )
    assert (scores.confidence == 127).all()


def test_only_what_is_asked_for_is_kept():
    tile, valid = tile_of(np.zeros((2, 3, 3), np.float32)), np.ones((3, 3), bool)
    runner = runner_for(Logits(), 2)
    assert list(runner([tile], [valid], halo=0)[0].arrays()) == ["labels"]
    assert list(runner([tile], [valid], halo=0, probabilities=True)[0].arrays()) == ["labels", "probabilities"]


def test_scores_without_data():
    scores = Scores.nodata((2, 3), classes=4, confidence=True, probabilities=True)
    assert {name: array.shape for name, array in scores.arrays().items()} == {
        "labels": (2, 3), "confidence": (2, 3), "probabilities": (4, 2, 3)
    }  # fmt: skip
    assert all((array == NODATA).all() for array in scores.arrays().values())


def test_the_cell_lies_a_halo_inside_its_tile():
    data = np.random.default_rng(0).normal(size=(3, 12, 10)).astype(np.float32)
    (scores,) = runner_for(Logits(), 3)([tile_of(data)], [np.ones((5, 4), bool)], halo=3)
    np.testing.assert_array_equal(scores.labels, data[:, 3:8, 3:7].argmax(0))


# ---- the network


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "m.safetensors", depth=2)).build()


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    return [tile_of(rng.integers(0, 200, (3, 48, 40)).astype(np.uint8)) for _ in range(8)]


def run(model, tiles, placement, halo=24):
    runner = Runner(model, mean=[100] * 3, std=[50] * 3, classes=3, placement=placement)
    valid = [np.ones((tile.valid.shape[0] - 2 * halo or 1, 4), bool) for tile in tiles]
    return runner(tiles, valid, halo=halo, probabilities=True)


def test_the_model_given_is_left_as_it_is(unet, tiles):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    run(unet, tiles[:1], Placement(device="cpu", precision="bfloat16"), halo=0)
    assert {name: tensor.dtype for name, tensor in unet.state_dict().items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def test_the_batch_changes_no_byte_on_the_cpu(unet, tiles):
    one = run(unet, tiles, FLOAT32, halo=4)
    many = run(unet, tiles, Placement(device="cpu", precision="float32", batch_size=5), halo=4)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.probabilities, b.probabilities)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same(unet, tiles, precision):
    exact = run(unet, tiles[:2], FLOAT32, halo=4)
    for a, b in zip(exact, run(unet, tiles[:2], Placement(device="cpu", precision=precision), halo=4), strict=True):
        assert (a.labels == b.labels).mean() > 0.95
        assert np.abs(a.probabilities.astype(int) - b.probabilities).mean() < 5


def test_threads_share_a_runner(unet, tiles):
    torch.set_num_threads(1)
    runner = Runner(unet, mean=[100] * 3, std=[50] * 3, classes=3, placement=FLOAT32)
    valid = np.ones((40, 32), bool)
    expected = [runner([tile], [valid], halo=4)[0].labels for tile in tiles]
    found = [None] * len(tiles)

    def work(index):
        torch.set_num_threads(1)
        found[index] = runner([tiles[index]], [valid], halo=4)[0].labels

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(tiles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_tile_that_never_fits_is_refused_in_one_line():
    class Greedy(Logits):
        stride = 4

        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(DeviceError, match=r"a tile of \d+x\d+ pixels does not fit into the memory of cpu"):
        runner_for(Greedy(), 2)([tile_of(np.zeros((2, 24, 24), np.float32))], [np.ones((16, 16), bool)], halo=4)


def test_an_error_of_the_network_is_not_taken_for_a_lack_of_memory():
    class Wrong(Logits):
        def forward(self, x):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        runner_for(Wrong(), 2)([tile_of(np.zeros((2, 4, 4), np.float32))], [np.ones((4, 4), bool)], halo=0)
