"""`python -m tests.benchmarks [speed|memory|dask|tile|training|vectors]...`: exit 1 when a goal is missed."""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from tests.benchmarks.inputs import write_boxes, write_checkpoint, write_scene
from tests.benchmarks.runs import MISSED, alternate, report, subject
from tests.benchmarks.training import training
from tests.benchmarks.vectors import vectors


def differing(a: Path, b: Path, edge: int) -> float:
    """Share of pixels whose labels differ, leaving out a frame: the naive loop pads with zeros, geoseg mirrors."""
    with rasterio.open(a) as first, rasterio.open(b) as second:
        x, y = first.read(1), second.read(1)
    inside = slice(edge, -edge), slice(edge, -edge)
    return float(np.mean(x[inside] != y[inside]))


def speed(folder: Path, rounds: int) -> None:
    print("speed: CPU seconds, end to end against the bare forward pass of the same tiles, and against the usual loop")
    scene, small = write_scene(folder / "s.tif", (4608, 4608)), write_scene(folder / "small.tif", (1536, 3072))
    out, plain = folder / "out.tif", folder / "naive.tif"
    for width, bound in ((16, 1.10), (32, 1.05)):
        model = write_checkpoint(folder / f"base{width}.safetensors", width=width)
        seen = alternate(
            rounds,
            forward=("forward", scene, model, "bfloat16"),
            predict=("predict", scene, model, out, "bfloat16", small),
        )
        print(f"  base{width} bfloat16: forward {seen['forward']['cpu']:.2f} s, predict {seen['predict']['cpu']:.2f} s")
        report(
            f"base{width}, bfloat16: end to end / bare forward",
            seen["predict"]["cpu"] / seen["forward"]["cpu"],
            bound,
            most=True,
        )
    model = folder / "base16.safetensors"
    for precision, bound in (("bfloat16", 5.0), ("float32", 2.3)):
        seen = alternate(
            max(rounds // 2, 1),
            naive=("naive", scene, model, plain),
            predict=("predict", scene, model, out, precision, small),
        )
        print(f"  base16 {precision}: usual loop {seen['naive']['cpu']:.2f} s, predict {seen['predict']['cpu']:.2f} s, "
              f"labels that differ {differing(out, plain, 128):.5%}")  # fmt: skip
        report(
            f"base16, {precision}: usual loop / geoseg",
            seen["naive"]["cpu"] / seen["predict"]["cpu"],
            bound,
            most=False,
        )


def memory(folder: Path, shapes: list[tuple[int, int]], rounds: int) -> None:
    # One thread: with two, what is alive at one moment is left to chance, and equal runs differ by 5 %.
    print(f"memory: peak resident set with a trivial model in one thread, medians of {rounds}, against 3000x3000")
    model = write_checkpoint(folder / "trivial.safetensors", width=1, depth=1)
    peaks = []
    for height, width in [(3000, 3000), *shapes]:
        scene = write_scene(folder / "m.tif", (height, width))
        call = ("predict", scene, model, folder / "out.tif", "float32", "", "threads=1")
        seen = alternate(rounds, predict=call)["predict"]
        peaks.append(seen["rss"])
        print(f"  {height} x {width}: {seen['rss']:.0f} MiB, {seen['cpu']:.1f} CPU s", flush=True)
        if len(peaks) > 1:
            report(f"peak {height} x {width} / peak 3000 x 3000", peaks[-1] / peaks[0], 1.05, most=True)


def dask(folder: Path, rounds: int) -> None:
    print("dask: wall and CPU seconds of two local workers against two threads in process")
    scene, small = write_scene(folder / "d.tif", (9216, 9216)), write_scene(folder / "small.tif", (1536, 3072))
    model = write_checkpoint(folder / "base16.safetensors", width=16)
    seen = alternate(
        rounds,
        threads=("predict", scene, model, folder / "a.tif", "bfloat16", small),
        workers=("predict", scene, model, folder / "b.tif", "bfloat16", small, "workers=2"),
    )
    for name, result in seen.items():
        print(f"  {name}: {result['cpu']:.2f} CPU s, {result['wall']:.2f} s")
    report(
        "workers / threads, CPU (workers import torch: a fixed cost)",
        seen["workers"]["cpu"] / seen["threads"]["cpu"],
        1.25,
        most=True,
    )
    same = (folder / "a.tif").read_bytes() == (folder / "b.tif").read_bytes()
    report("equal bytes", float(same), 1, most=False)


def tile(folder: Path) -> None:
    print("tile: peak resident set of cutting a scene and 2000 polygons into tiles of 512 pixels")
    peaks = []
    for side in (3000, 12000):
        scene = write_scene(folder / "t.tif", (side, side))
        seen = subject("tile", scene, write_boxes(folder / f"{side}.gpkg", (side, side)), folder / f"tiles{side}")
        peaks.append(seen["rss"])
        each = 1000 * seen["cpu"] / len(list((folder / f"tiles{side}" / "images").iterdir()))
        print(f"  {side} x {side}: {seen['rss']:.0f} MiB, {each:.0f} CPU ms a tile", flush=True)
    report("peak 12000 x 12000 / peak 3000 x 3000", peaks[1] / peaks[0], 1.05, most=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="speed, memory, dask, tile, training, vectors (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="memory and vectors on smaller scenes")
    options = parser.parse_args()
    huge = [(20000, 20000), (2000, 200000), (200000, 2000)]
    with tempfile.TemporaryDirectory(prefix="geoseg-bench-") as name:
        folder = Path(name)
        chosen = options.what or ["speed", "memory", "dask", "tile", "training", "vectors"]
        if "speed" in chosen:
            speed(folder, options.rounds)
        if "memory" in chosen:
            shapes = [(6000, 9000), (2000, 40000), (40000, 2000)] if options.small else huge
            memory(folder, shapes, max(options.rounds // 2, 1))
        if "dask" in chosen:
            dask(folder, max(options.rounds // 2, 1))
        if "tile" in chosen:
            tile(folder)
        if "training" in chosen:
            training(folder, options.rounds)
        if "vectors" in chosen:
            vectors(side=2000 if options.small else 5000)
    sys.exit(f"missed: {'; '.join(MISSED)}" if MISSED else 0)


if __name__ == "__main__":
    main()
