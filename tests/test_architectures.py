"""Every architecture of MODELS trains, runs at its full width, and is used by `predict_scene`."""

import gc

import numpy as np
import pytest
import rasterio
import torch
from rasters import UTM, write_raster

from geoseg.checkpoint import load_checkpoint
from geoseg.config import load_config
from geoseg.metrics import ConfusionMatrix
from geoseg.models import MODELS, build_model
from geoseg.parallel import Inline
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.synthetic import CLASSES, draw_town
from geoseg.training.fit import train_model

SEED, SIDE, GSD = 7, 256, 0.3

NARROW = {arch: {"width": 4 if arch in ("unet3d", "unetplusplus") else 8} for arch in MODELS}
# Without ImageNet's weights FCN's VGG needs its normalised variant.
NARROW |= {arch: {"width": 8, "norm": True} for arch in ("fcn32s", "fcn16s", "fcn8s")}
"""Arguments of an eighth of the published width."""

STEPS = 300


@pytest.fixture(scope="module")
def town():
    """(C, H, W) image and (H, W) target of the town that is learnt."""
    drawn = draw_town((SIDE, SIDE), GSD, SEED)
    return drawn.image, drawn.target()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints by architecture, trained when asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def get(arch):
        path = folder / arch / "model.safetensors"
        return path if path.exists() else train_model(config(arch), folder / arch, device="cpu")

    return get


def config(arch, **changes):
    """A run on the one town, with nothing changed but by flips and turns."""
    strengths = ("brightness", "contrast", "gamma", "color", "noise", "blur")
    keys = {
        "arch": arch,
        "arch_args": NARROW[arch],
        "data.sources": [{"synthetic": 1, "size": SIDE, "gsd_range": [GSD, GSD], "seed": SEED}],
        "augmentation": {"zoom": [1, 1], **dict.fromkeys(strengths, 0)},
        "optimizer.lr": 5e-3,
        "optimizer.ema": 0.97,  # so few steps are soon forgotten, or the average would still hold the first weights
        "epochs": 1,
        "steps_per_epoch": STEPS,
        "batch_size": 4,
        "tile_size": 64,
        "cell_side": 256,
    }
    if arch == "fcn32s":  # a building is hardly larger than its stride, and rarely met in so few samples
        keys["data.balance"] = 0.5
    return load_config(None, keys | changes)


def ious(labels, target):
    """IoU by class."""
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(target, labels)
    return {item.name: item.iou for item in matrix.scores().classes}


def predicted(folder, checkpoint, image, **settings):
    """Labels of an image, and the tags of their raster, by way of files."""
    scene = write_raster(folder / "scene.tif", image, **UTM)
    done = predict_scene(
        scene,
        checkpoint,
        products=Products(labels=folder / "out.tif"),
        settings=Settings(precision="float32", device="cpu", **settings),
        backend=Inline(),
    )
    with rasterio.open(folder / "out.tif") as src:
        return src.read(1), src.tags(), done.cells


@pytest.mark.slow
@pytest.mark.parametrize("arch", MODELS)
def test_it_learns_a_town(trained, town, tmp_path, arch):
    image, target = town
    labels, _, _ = predicted(tmp_path, trained(arch), image)
    nothing = ious(np.zeros_like(target), target)
    found = ious(labels, target)
    assert found["building"] > 0.1, found
    assert np.mean(list(found.values())) > np.mean(list(nothing.values())) + 0.05, (found, nothing)


@pytest.mark.slow
@pytest.mark.parametrize("arch", MODELS)
def test_tiles_equal_the_whole(trained, town, tmp_path, arch):
    """Networks of unbounded context have no such whole: there the tiles are faded into each other."""
    image = town[0][:, 40:168, 30:190]
    checkpoint = load_checkpoint(trained(arch))
    header, model = checkpoint.header, checkpoint.build()
    if not model.bounded:
        labels, tags, _ = predicted(tmp_path, trained(arch), image, tile_size=96)
        assert tags["GEOSEG_BLEND"] == "taper"
        assert len(np.unique(labels)) > 1
        return
    halo = -(-header.receptive_radius // header.stride) * header.stride
    labels, tags, cells = predicted(tmp_path, trained(arch), image, tile_size=96 + 2 * halo)
    assert (tags["GEOSEG_BLEND"], cells) == ("crop", 4)
    logits = whole_scene(model, header, image, halo)
    first, second = logits.topk(2, dim=0).values
    differ = (labels != logits.argmax(0).numpy()) & ((first - second) > 1e-3).numpy()
    # Where two of four pixels are equal but for rounding, SegNet may unpool to either.
    assert differ.mean() <= (1e-3 if arch == "segnet" else 0)
    assert len(np.unique(labels)) > 1


def whole_scene(model, header, image, halo):
    """Logits (K, H, W) by one pass of the bare network over the image, mirrored by numpy."""
    mean, std = (np.array(values)[:, None, None] for values in (header.mean, header.std))
    height, width = image.shape[1:]
    extra = [(halo, halo + -side % header.stride) for side in (height, width)]
    mirrored = np.pad((image - mean) / std, [(0, 0), *extra], mode="reflect").astype(np.float32)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(mirrored)[None])[0, :, halo : halo + height, halo : halo + width]


@pytest.mark.slow
@pytest.mark.parametrize("arch", MODELS)
def test_it_runs_at_its_full_width(arch):
    """Weights are left as they come, for speed: what is looked at is that the pass goes through."""
    with torch.device("meta"):
        model = build_model(arch, in_channels=3, classes=3)
    model = model.to_empty(device="cpu").eval()
    with torch.inference_mode():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01)
        logits = model(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 3, 64, 64)
    assert torch.isfinite(logits).all()
    del model, logits
    gc.collect()
