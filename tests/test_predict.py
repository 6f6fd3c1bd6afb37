"""A model on a device: what auto means, what is kept of the logits, and that nothing non-finite comes through."""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from torch import nn

from geoseg import predict
from geoseg.batches import Tile
from geoseg.checkpoint import ClassInfo, Head, load_checkpoint
from geoseg.errors import DeviceError
from geoseg.layers import Keep
from geoseg.predict import VIEWS, Ensemble, Placement, Runner, View, resolve_device, resolve_precision
from geoseg.scores import Decision

FLOAT32 = Placement(device="cpu", precision="float32")


class Logits(nn.Module):
    """Gives back its input: one class per band."""

    stride = 1

    def forward(self, x):
        return x.float()


def one_head(classes, **decision):
    names = (ClassInfo(name=f"class {index}", color="#000000") for index in range(classes))
    return Decision(heads={"main": Head(classes=tuple(names))}, **decision)


def runner_for(model, channels, placement=FLOAT32, mean=0.0, std=1.0, classes=None, **decision):
    decided = one_head(classes or channels, **decision)
    return Runner(model, mean=[mean] * channels, std=[std] * channels, decision=decided, placement=placement)


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


def test_the_cell_lies_a_halo_inside_its_tile():
    data = np.random.default_rng(0).normal(size=(3, 12, 10)).astype(np.float32)
    (scores,) = runner_for(Logits(), 3)([tile_of(data)], [np.ones((5, 4), bool)], halo=3)
    np.testing.assert_array_equal(scores["labels"], data[:, 3:8, 3:7].argmax(0))


# ---- the network


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "m.safetensors", depth=2)).build()


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    return [tile_of(rng.integers(0, 200, (3, 48, 40)).astype(np.uint8)) for _ in range(8)]


def run(model, tiles, placement, halo=24):
    runner = runner_for(model, 3, placement, mean=100, std=50)
    valid = [np.ones((tile.valid.shape[0] - 2 * halo or 1, 4), bool) for tile in tiles]
    return runner(tiles, valid, halo=halo, keep=Keep(probabilities=True))


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
        np.testing.assert_array_equal(a["labels"], b["labels"])
        np.testing.assert_array_equal(a["probabilities"], b["probabilities"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same(unet, tiles, precision):
    exact = run(unet, tiles[:2], FLOAT32, halo=4)
    for a, b in zip(exact, run(unet, tiles[:2], Placement(device="cpu", precision=precision), halo=4), strict=True):
        assert (a["labels"] == b["labels"]).mean() > 0.95
        assert np.abs(a["probabilities"].astype(int) - b["probabilities"]).mean() < 5


def test_threads_share_a_runner(unet, tiles):
    torch.set_num_threads(1)
    runner = runner_for(unet, 3, mean=100, std=50)
    valid = np.ones((40, 32), bool)
    expected = [runner([tile], [valid], halo=4)[0]["labels"] for tile in tiles]
    found = [None] * len(tiles)

    def work(index):
        torch.set_num_threads(1)
        found[index] = runner([tiles[index]], [valid], halo=4)[0]["labels"]

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


# ---- ensembles


def test_an_ensemble_is_the_mean_of_the_probabilities(unet, tiles):
    torch.manual_seed(1)
    other = copy.deepcopy(unet)
    with torch.no_grad():
        other.head.weight.mul_(-1.5)
    members = [runner_for(unet, 3, mean=100, std=50, temperature=2.0), runner_for(other, 3, mean=90, std=40)]
    valid = [np.ones((40, 32), bool)]
    each = [
        torch.softmax(member.logits(tiles[:1], halo=4)[0] / member.decision.temperature, 0).numpy()
        for member in members
    ]
    (scores,) = Ensemble(members)(tiles[:1], valid, halo=4, keep=Keep(confidence=True, probabilities=True))
    mean = np.mean(each, axis=0)
    assert np.abs(scores["probabilities"] - mean * 254).max() <= 0.5 + 1e-3
    assert np.abs(scores["confidence"] - mean.max(0) * 254).max() <= 0.5 + 1e-3
    first, second = np.sort(mean, axis=0)[:-3:-1]
    clear = first - second > 1e-5
    assert np.array_equal(scores["labels"][clear], mean.argmax(0)[clear])
    assert len(np.unique(scores["labels"])) > 1


def test_an_ensemble_of_one_network_twice_is_that_network(unet, tiles):
    one = runner_for(unet, 3, mean=100, std=50)
    valid = [np.ones((40, 32), bool)]
    (alone,), (twice,) = (who(tiles[:1], valid, halo=4) for who in (one, Ensemble([one, one])))
    assert np.array_equal(alone["labels"], twice["labels"])


# ---- views


def test_a_view_gives_back_what_lies_where_the_tile_had_it():
    rng = np.random.default_rng(0)
    tile = tile_of(rng.normal(size=(3, 24, 40)).astype(np.float32))
    tile.valid[3:7, 11:] = False
    one = runner_for(Logits(), 3)
    (wanted,) = one.logits([tile], halo=4)
    for view in VIEWS:
        (found,) = View(one, *view).logits([tile], halo=4)
        np.testing.assert_array_equal(found, wanted)


def test_the_eight_views_differ_and_the_network_sees_each():
    seen = []

    class Eye(Logits):
        def forward(self, x):
            seen.append(x[0, 0].numpy().copy())
            return x.float()

    tile = tile_of(np.arange(2 * 24 * 40, dtype=np.float32).reshape(2, 24, 40))
    Ensemble([View(runner_for(Eye(), 2, std=1000), *view) for view in VIEWS]).logits([tile], halo=0)
    assert sorted(x.shape for x in seen) == [(24, 40)] * 4 + [(40, 24)] * 4
    square = [x if x.shape == (24, 40) else x.T for x in seen]
    assert len({x.tobytes() for x in square}) == 4  # of each shape: as it is, mirrored either way, and half turned
    assert len({(x.shape, x.tobytes()) for x in seen}) == 8


def test_the_mean_of_all_views_turns_with_the_scene(unet, tiles):
    one = runner_for(unet, 3, mean=100, std=50)
    all_views = Ensemble([View(one, *view) for view in VIEWS])
    tile = tiles[0]
    (wanted,) = all_views.logits([tile], halo=4)
    (alone,) = one.logits([tile], halo=4)
    turned = Tile(
        data=np.ascontiguousarray(np.rot90(tile.data, 1, (1, 2))), valid=np.ascontiguousarray(np.rot90(tile.valid))
    )
    (found,) = all_views.logits([turned], halo=4)
    torch.testing.assert_close(torch.rot90(found, -1, (1, 2)), wanted, atol=1e-4, rtol=0)
    (other,) = one.logits([turned], halo=4)
    assert (torch.rot90(other, -1, (1, 2)) - alone).abs().max() > 1e-2  # which it does not by itself
