"""What is measured, each in a process of its own: `python -m tests.benchmarks.subjects NAME ARGUMENT...`.

Prints CPU seconds (all threads, children too), wall seconds and the peak resident set in MiB as JSON. Imports, and a
first small run that loads libraries and fills caches, are not counted; the peak counts everything.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local


def measured(work: Callable[[], object]) -> None:
    def cpu() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu_start, start = cpu(), time.perf_counter()
    work()
    seconds, wall = cpu() - cpu_start, time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": round(seconds, 3), "wall": round(wall, 3), "rss": round(peak, 1)}))


def predict(scene: str, checkpoint: str, output: str, precision: str, small: str = "", backend: str = "") -> None:
    """geoseg, end to end: scene in, COG out. `backend` is the default one, "threads=N" or "workers=N"."""
    from geoseg.parallel import backend_from
    from geoseg.pipeline import Products, Settings, default_backend, predict_scene
    from geoseg.predict import Placement, tune_malloc, tune_worker

    tune_malloc()
    settings = Settings(precision=precision)
    kind, _, number = backend.partition("=")
    who = backend_from(**{kind: int(number)}, setup=tune_worker) if kind else default_backend(Placement.resolve())

    def run(scene: str, output: str) -> None:
        predict_scene(
            scene,
            checkpoint,
            products=Products(labels=Path(output)),
            settings=settings,
            backend=who,
            overwrite=True,
        )

    if small:
        run(small, output)
    measured(lambda: run(scene, output))


def forward(scene: str, checkpoint: str, precision: str) -> None:
    """The floor: the bare forward pass of the same tiles, in the same number of threads, and nothing else."""
    import torch

    from geoseg.checkpoint import load_checkpoint
    from geoseg.engine import load_predictor
    from geoseg.pipeline import default_backend
    from geoseg.plans import plan_for
    from geoseg.predict import Placement, tune_malloc
    from geoseg.preflight import open_scene

    tune_malloc()
    header = load_checkpoint(checkpoint).header
    placement = Placement.resolve(precision=precision)
    runner = load_predictor(((checkpoint, header.sha256),), placement)
    with open_scene(scene, header, None, None) as source:
        plan = plan_for(source.grid.shape, header)
    shapes = [plan.tile(cell).shape for cell in plan]
    inputs = {
        shape: torch.randn(1, 3, *shape).to(runner.dtype).contiguous(memory_format=torch.channels_last)
        for shape in set(shapes)
    }
    thread = local()

    def one(shape: tuple[int, int]) -> None:
        if not hasattr(thread, "ready"):
            torch.set_num_threads(1)
            thread.ready = True
        with torch.inference_mode():
            runner.model(inputs[shape])

    with ThreadPoolExecutor(default_backend(placement).n) as pool:
        list(pool.map(one, shapes[:1] * pool._max_workers))
        measured(lambda: list(pool.map(one, shapes)))


def naive(scene: str, checkpoint: str, output: str) -> None:
    """The usual loop: boundless windowed read, float64 normalisation, eager float32, softmax, argmax, windowed write.

    The same cells and the same halo as geoseg's, so that its labels can be compared.
    """
    import numpy as np
    import rasterio
    import torch
    from rasterio.windows import Window

    from geoseg.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    header, model = loaded.header, loaded.build()
    mean, std = (np.array(values)[:, None, None] for values in (header.mean, header.std))
    side, halo = header.cell_side, -(-header.receptive_radius // header.stride) * header.stride

    def run() -> None:
        with rasterio.open(scene) as src:
            profile = {**src.profile, "count": 1, "compress": "deflate"}
            with rasterio.open(output, "w", **profile) as dst, torch.no_grad():
                for row in range(0, src.height, side):
                    for col in range(0, src.width, side):
                        window = Window(col - halo, row - halo, side + 2 * halo, side + 2 * halo)
                        image = (src.read(window=window, boundless=True) - mean) / std
                        logits = model(torch.from_numpy(image).float()[None])
                        labels = torch.softmax(logits, 1).argmax(1)[0].numpy().astype("uint8")
                        height, width = min(side, src.height - row), min(side, src.width - col)
                        labels = labels[halo : halo + height, halo : halo + width]
                        dst.write(labels, 1, window=Window(col, row, width, height))

    measured(run)


def tile(scene: str, labels: str, folder: str) -> None:
    """A scene and polygons in, a folder of tiles out."""
    from geoseg.tiles import tile_scenes

    measured(lambda: tile_scenes([scene], [labels], folder))


if __name__ == "__main__":
    {"predict": predict, "forward": forward, "naive": naive, "tile": tile}[sys.argv[1]](*sys.argv[2:])
