"""What training costs beside its steps: `python -m tests.benchmarks training`.

Each subject runs in a process of its own: `python -m tests.benchmarks.training NAME ARGUMENT...`.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine

from geoseg.synthetic import draw_town
from tests.benchmarks.runs import alternate, report

GB = 10**9
TILES = 1000


def training(folder: Path, rounds: int) -> None:
    """All of it, as ratios and seconds with their bounds."""
    loading(folder, rounds)
    first_step(folder, rounds)
    step(rounds)


def step(rounds: int) -> None:
    print("step: CPU ms in one thread, U-Net base16, batch 8, 256 px, against the bare loop on the same batch")
    for precision in ("bfloat16", "float32"):
        seen = alternate(rounds, "steps", step=(precision,))["step"]
        print(f"  {precision}: geoseg {seen['geoseg']:.0f}, bare {seen['bare']:.0f}, plain float32 {seen['plain']:.0f}")
        report(
            f"step in {precision} / bare forward, backward, optimizer", seen["geoseg"] / seen["bare"], 1.10, most=True
        )
        if precision == "bfloat16":
            ratio = seen["plain"] / seen["geoseg"]
            report("plain float32 loop / step in bfloat16, channels_last", ratio, 1.8, most=False)
    if torch.cuda.is_available():
        seen = alternate(rounds, "steps", images=("cuda",))["images"]
        print(f"  U-Net base64, batch 16, 512 px, on the GPU: {seen['geoseg']:.0f} images/s, bare {seen['bare']:.0f}")
        report("bare loop / geoseg, images a second", seen["bare"] / seen["geoseg"], 1.10, most=True)


def loading(folder: Path, rounds: int) -> None:
    print("loading: CPU ms in one thread, batches of 8 samples of 256 px, zoomed by 0.7 to 1.5, from a warm cache")
    seen = alternate(rounds, "training", loading=("loading", folder / "cache"))["loading"]
    print(f"  a sample {seen['sample']:.2f}, a batch {seen['batch']:.2f}, a step of U-Net base16 {seen['step']:.0f}")
    report("loading / step", seen["batch"] / seen["step"], 0.03, most=True)


def first_step(folder: Path, rounds: int) -> None:
    print(f"first step: seconds after the imports, {TILES} cached tiles of 512 px, U-Net base16, batch 8, 256 px")
    tiles = write_tiles(folder / "tiles", TILES)
    call = ("first_step", tiles, folder / "runs", folder / "cache")
    seen = alternate(1, "training", decoding=call)["decoding"]
    print(f"  the first time, when they are decoded: {seen['wall']:.1f} s")
    seen = alternate(rounds, "training", cached=call)["cached"]
    print(f"  from the cache: {seen['wall']:.1f} s, {seen['cpu']:.1f} CPU s")
    report("seconds to the first step", seen["wall"], 3.0, most=True)


def write_tiles(folder: Path, count: int, side: int = 512) -> Path:
    """Labelled tiles cut from a drawn town, each shifted in brightness so that no two are equal."""
    town = draw_town((2048, 2048), 0.3, 1, collar=False)
    image, target = town.image, town.target()
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        row, col = rng.integers(0, 2048 - side, 2)
        place = Affine(0.3, 0, 500000 + 154 * number, 0, -0.3, 4000000)
        same = {"driver": "GTiff", "height": side, "width": side, "crs": "EPSG:32637", "transform": place}
        part = image[:, row : row + side, col : col + side] // 2 + np.uint8(number % 100)
        for kind, pixels in (("images", part), ("labels", target[None, row : row + side, col : col + side])):
            path = folder / kind / f"{number:04d}.tif"
            with rasterio.open(path, "w", **same, count=len(pixels), dtype="uint8", compress="deflate") as dst:
                dst.write(pixels)
    return folder


# --- subjects


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Median CPU time."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(1000 * (time.process_time() - begun))
    return statistics.median(found)


def run_loading(cache: str) -> dict[str, float]:
    import torch
    from torch.utils.data import DataLoader

    from geoseg.losses import parse_mixture
    from geoseg.models import build_model
    from geoseg.predict import Placement, tune_malloc
    from geoseg.training.cache import decode
    from geoseg.training.samples import Samples
    from tests.pieces import make_piece

    tune_malloc()
    torch.set_num_threads(1)
    town = draw_town((2048, 2048), 0.3, 1, collar=False)
    pieces = [make_piece(town.image, town.target(), known=(0, 1, 2), zoom=(0.7, 1.5))]
    for _ in range(2):  # the second one maps what the first has decoded
        samples = Samples(decode(pieces, Path(cache), 2 * GB), tile_size=256, seed=0)
    batches = iter(DataLoader(samples, batch_size=8, sampler=range(8 * 1000)))
    first = next(batches)
    model = build_model("unet", in_channels=3, classes=3, width=16).to(memory_format=torch.channels_last).train()
    loss, optimizer = parse_mixture("cross_entropy:1,dice:1"), torch.optim.AdamW(model.parameters())
    bfloat16 = Placement.resolve("cpu").precision == "bfloat16"

    def step() -> None:
        image = first["image"].float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(image)
        optimizer.zero_grad()
        loss(logits.float(), first["target"].long()).backward()
        optimizer.step()

    step()
    # In turns, so that both see the same machine.
    rounds = [(milliseconds(lambda: next(batches), 10), milliseconds(step, 3)) for _ in range(5)]
    batch, one = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"sample": batch / 8, "batch": batch, "step": one}


def run_first_step(tiles: str, runs: str, cache: str) -> dict[str, float]:
    import matplotlib.pyplot as plt  # noqa: F401  the picture of the first batch

    from geoseg.config import TrainConfig
    from geoseg.predict import tune_malloc
    from geoseg.training.fit import train_model

    tune_malloc()
    found: list[float] = []
    Path(runs).mkdir(exist_ok=True)
    config = TrainConfig.model_validate(
        {
            "arch_args": {"width": 16},
            "data": {"sources": [{"folder": tiles}], "cache": cache, "val": 0},
            "epochs": 1,
            "steps_per_epoch": 1,
        }
    )
    begun, cpu = time.perf_counter(), time.process_time()
    train_model(
        config,
        Path(runs) / f"run-{os.getpid()}",
        device="cpu",
        on_step=lambda _: found.extend((time.perf_counter() - begun, time.process_time() - cpu)),
    )
    return {"wall": found[0], "cpu": found[1]}


if __name__ == "__main__":
    print(json.dumps({"loading": run_loading, "first_step": run_first_step}[sys.argv[1]](*sys.argv[2:])))
