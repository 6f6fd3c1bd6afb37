"""Five textbook networks of about equal size, trained alike on real tiles: accuracy, outlines, cost, and a figure.

python examples/compare_architectures.py [-o FOLDER] [--data FOLDER] [--quick]

The tiles are the drone scenes of `oam_buildings`, split as in `examples/drone_scenes.yaml`, in the folder of labelled
imagery that --data or GEOSEG_DATA names. Without one, synthetic towns are drawn. Runs that are there already are not
repeated, so that an interrupted comparison goes on where it ended.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from scipy.ndimage import binary_erosion

from geoseg.checkpoint import load_checkpoint
from geoseg.config import TrainConfig, dump_config, load_config
from geoseg.engine import cells
from geoseg.models import build_model
from geoseg.models.cost import macs_per_pixel, parameters
from geoseg.models.layout import channels_last
from geoseg.plans import plan_for
from geoseg.predict import PRECISIONS, Placement, Runner, tune_malloc
from geoseg.scores import Decision
from geoseg.training.fit import train_model
from geoseg.training.samples import Ground
from geoseg.training.sources import load_data

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net": ("unet", {}),
    "ResUNet": ("resunet", {}),
    "Attention U-Net": ("attention_unet", {}),
    # The paper begins from ImageNet's weights; from scratch VGG needs its normalised variant, as SegNet has it.
    "FCN-8s": ("fcn8s", {"norm": True}),
    "SegNet": ("segnet", {}),
}
"""Name -> architecture and arguments, its width aside."""

BAND = 3
"""Width in pixels of the band along outlines that boundary IoU looks at."""


@dataclass
class Result:
    """What is known of one network; lists have an entry for each seed."""

    arch_args: dict[str, Any]
    parameters: int
    kmac: float
    """Thousands of multiply-accumulates for each pixel."""
    kept_mb: float
    """MB that a training step keeps for its backward pass, in float32."""
    seconds: float
    """For the forward and backward pass of a training step."""
    iou: list[float] = field(default_factory=list)
    boundary_iou: list[float] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    """Of the first seed, for each validation ground."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, and write comparison.md and comparison.png beside the runs."""
    options = parse(argv)
    tune_malloc()
    options.output.mkdir(parents=True, exist_ok=True)
    sources = data_sources(options)
    grounds = load_data(load_config(None, base(options) | {"data.sources": sources})).val
    results = {name: new_result(arch, more, options) for name, (arch, more) in NETWORKS.items()}
    for seed in range(options.seeds):
        for name, (arch, _) in NETWORKS.items():
            result = results[name]
            keys = {"arch": arch, "arch_args": result.arch_args, "seed": seed, "data.sources": unvalidated(sources)}
            config = load_config(None, base(options) | keys)
            run = trained(config, options.output / f"{arch}_{seed}", options.device)
            labels = [predict(run / "model.safetensors", ground, options.device) for ground in grounds]
            result.iou.append(iou(labels, grounds))
            result.boundary_iou.append(iou(labels, grounds, band=BAND))
            result.labels = result.labels or labels
            said = f"IoU {result.iou[-1]:.3f}  boundary IoU {result.boundary_iou[-1]:.3f}"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)
    report = "\n\n".join([markdown(results), *findings(results)])
    (options.output / "comparison.md").write_text(report + "\n", encoding="utf-8")
    draw(results, grounds, options.output / "comparison.png")
    print("\n".join([text(results), "", *findings(results)]))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; --quick takes the place of what is not given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("architectures"), help="folder to write")
    parser.add_argument("--data", default=os.environ.get("GEOSEG_DATA"), help="folder with oam_buildings/")
    parser.add_argument("--quick", action="store_true", help="tiny networks, few steps, towns: seconds, no result")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    for name, whole, quick, about in (
        ("parameters", 500_000, 8_000, "size of each network, about"),
        ("seeds", 3, 2, "runs of each network"),
        ("steps", 500, 4, "training steps of each run"),
        ("batch-size", 4, 2, "samples of a step"),
        ("tile-size", 128, 64, "side of a sample in pixels"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{about} [default: {whole}; quick: {quick}]")
        parser.set_defaults(**{f"whole_{name}": (whole, quick)})
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate, of all networks")
    options = parser.parse_args(argv)
    for key, value in list(vars(options).items()):
        if key.startswith("whole_"):
            name = key.removeprefix("whole_").replace("-", "_")
            setattr(options, name, getattr(options, name) or value[options.quick])
    return options


# --- data and training


def base(options: argparse.Namespace) -> dict[str, Any]:
    """What all runs share. The average of the last steps is kept; nothing is chosen by its score."""
    return {
        "classes": [{"name": "background"}, {"name": "building"}],
        "optimizer.lr": options.lr,
        "augmentation.zoom": (0.8, 1.6),
        "epochs": 1,
        "steps_per_epoch": options.steps,
        "batch_size": options.batch_size,
        "tile_size": options.tile_size,
    }


def data_sources(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Real scenes with windows to learn from and to be scored on, or drawn towns."""
    if options.quick or not options.data:
        town = {"size": 128 if options.quick else 768, "gsd_range": (0.2, 0.5)}
        many = 2 if options.quick else 24
        return [{"synthetic": many} | town, {"synthetic": 2, "seed": 900, "split": "val"} | town]
    os.environ["GEOSEG_DATA"] = str(Path(options.data).absolute())
    drone = load_config(Path(__file__).with_name("drone_scenes.yaml")).data.sources
    return [source.model_dump(by_alias=True, exclude_none=True) | {"known": None, "zoom": None} for source in drone]


def unvalidated(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same sources without what is scored, which is done here, once, after training."""
    return [source | ({"val": ()} if "scene" in source else {}) for source in sources if source.get("split") != "val"]


def trained(config: TrainConfig, run: Path, device: str) -> Path:
    """The run folder of a configuration, trained unless it was before."""
    said = run / "config.yaml"
    if not said.is_file() or said.read_text(encoding="utf-8") != dump_config(config):
        train_model(config, run, device=device, overwrite=True)
    return run


def predict(checkpoint: Path, ground: Ground, device: str) -> np.ndarray:
    """(H, W) uint8 labels, cell by cell as `geoseg predict` has them."""
    loaded = load_checkpoint(checkpoint)
    header = loaded.header
    decision, placement = Decision(heads=header.heads), Placement.resolve(device)
    runner = Runner(loaded.build(), mean=header.mean, std=header.std, decision=decision, placement=placement)
    plan = plan_for(ground.target.shape, header)
    labels = np.empty(ground.target.shape, np.uint8)
    for window, cell in zip(plan, cells(ground.reader, runner, plan, list(plan)), strict=True):
        labels[window.slices()] = cell["labels"]
    return labels


# --- what is measured


def new_result(arch: str, arch_args: dict[str, Any], options: argparse.Namespace) -> Result:
    """The network of the width whose parameters come nearest to those wanted, and what it costs."""

    def build(width: int, device: str = "meta") -> torch.nn.Module:
        with torch.device(device):
            return build_model(arch, in_channels=3, classes=2, width=width, **arch_args)

    width = 1
    while parameters(build(width)) < options.parameters:
        width += 1
    width = min((max(1, width - 1), width), key=lambda w: abs(parameters(build(w)) - options.parameters))
    network = build(width)
    kept = kept_for_backward(network, options.batch_size, options.tile_size)
    cost = parameters(network), macs_per_pixel(network) / 1e3, kept / 1e6, seconds_a_step(build(width, "cpu"), options)
    return Result({"width": width, **arch_args}, *cost)


def kept_for_backward(network: torch.nn.Module, batch_size: int, side: int) -> int:
    """Bytes of activations that a training step keeps, in float32; nothing is computed, on the meta device."""
    own = {id(tensor) for tensor in network.parameters()}
    kept: dict[int, torch.Tensor] = {}  # held on to, so that no number is given twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.empty(batch_size, 3, side, side, device="meta"))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def seconds_a_step(network: torch.nn.Module, options: argparse.Namespace) -> float:
    """Of the forward and backward pass: the fastest of some, which other programs disturbed least."""
    placement = Placement.resolve(options.device)
    kind, dtype = torch.device(placement.device).type, PRECISIONS[placement.precision]
    network = channels_last(network.to(placement.device))
    image = torch.randn(options.batch_size, 3, options.tile_size, options.tile_size, device=placement.device)
    image = image.contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(3 if options.quick else 15):
        begun = time.perf_counter()
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            value = network(image).float().mean()
        value.backward()
        float(value.detach())  # waits for an accelerator
        taken.append(time.perf_counter() - begun)
    return min(taken)


def iou(labels: Sequence[np.ndarray], grounds: Sequence[Ground], band: int | None = None) -> float:
    """IoU of the buildings of all grounds together; with `band`, of the parts of them that lie along their outlines.

    Source: Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
    arXiv:2103.16562, equation 2, with the distance in pixels. The edge of the image is no outline here.
    """
    common = either = 0
    for predicted, ground in zip(labels, grounds, strict=True):
        known = ground.target != 255
        both = [inner_band(array == 1, band) & known for array in (predicted, ground.target)]
        common += int((both[0] & both[1]).sum())
        either += int((both[0] | both[1]).sum())
    return common / either if either else 0.0


def inner_band(building: np.ndarray, band: int | None) -> np.ndarray:
    """The pixels of buildings that lie within `band` of what is none; all of them without a band."""
    if band is None:
        return building
    return building & ~binary_erosion(building, np.ones((3, 3), bool), iterations=band, border_value=1)


# --- what came out


COLUMNS = ("network", "width", "parameters", "kMAC/px", "IoU", "boundary IoU", "s/step", "MB kept")


def rows(results: dict[str, Result]) -> Iterator[tuple[str, ...]]:
    """A row for each network."""
    for name, r in results.items():
        costs = (str(r.arch_args["width"]), f"{r.parameters / 1e6:.3f} M", f"{r.kmac:.1f}")
        scores = (with_spread(r.iou), with_spread(r.boundary_iou))
        yield name, *costs, *scores, f"{r.seconds:.3f}", f"{r.kept_mb:.0f}"


def with_spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def markdown(results: dict[str, Result]) -> str:
    """The table for a README."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(results: dict[str, Result]) -> str:
    """The table for a terminal."""
    lines = [COLUMNS, *rows(results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def findings(results: dict[str, Result]) -> list[str]:
    """What the textbooks say, and what the numbers say to it. Seeds are compared one by one."""
    unet, attention, fcn, segnet = (results[name] for name in ("U-Net", "Attention U-Net", "FCN-8s", "SegNet"))
    kept = {name: edge_share(results[name]) for name in ("SegNet", "FCN-8s", "U-Net")}
    shares = {name: f"{statistics.mean(values):.0%}" for name, values in kept.items()}
    edges, blur = compare(kept["SegNet"], kept["FCN-8s"]), compare(kept["U-Net"], kept["FCN-8s"])
    gain = compare(attention.iou, unet.iou)
    with torch.device("meta"):
        gated, plain = (
            build_model(arch, in_channels=3, classes=2, **unet.arch_args) for arch in ("attention_unet", "unet")
        )
    more = [f"{cost(gated) / cost(plain) - 1:+.0%}" for cost in (parameters, macs_per_pixel)]
    memory = attention.kept_mb / unet.kept_mb - 1
    return [
        f"SegNet's unpooling keeps outlines without skips: {edges.verdict}. Of its IoU {shares['SegNet']} is left at "
        f"the outlines, of FCN-8s's {shares['FCN-8s']}; its share less FCN-8s's: {edges}. In boundary IoU itself, less "
        f"FCN-8s's: {compare(segnet.boundary_iou, fcn.boundary_iou)}; less U-Net's: "
        f"{compare(segnet.boundary_iou, unet.boundary_iou)}.",
        f"FCN-8s blurs outlines: {blur.verdict}. Of its IoU {shares['FCN-8s']} is left at the outlines, of U-Net's "
        f"{shares['U-Net']}; U-Net's share less its own: {blur}.",
        f"Attention gates cost little: at U-Net's width they add {more[0]} parameters and {more[1]} multiplications, "
        f"and here {memory:+.0%} memory. That they gain accuracy: {gain.verdict}. IoU less U-Net's: {gain}.",
        f"Two equal networks would agree in sign in all {len(unet.iou)} seeds with a chance of "
        f"{min(1, 2 ** (1 - len(unet.iou))):.0%}.",
    ]


def edge_share(result: Result) -> list[float]:
    """Boundary IoU as a share of IoU, for each seed: how well outlines are kept of what is found at all."""
    return [b / i if i else 0.0 for b, i in zip(result.boundary_iou, result.iou, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """One network less another, seed by seed."""

    differences: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """Seeds that disagree decide nothing."""
        above = sum(d > 0 for d in self.differences)
        return {len(self.differences): "seen here", 0: "not seen here"}.get(above, "undecided here")

    def __str__(self) -> str:
        above = sum(d > 0 for d in self.differences)
        return f"{statistics.mean(self.differences):+.3f}, above 0 in {above} of {len(self.differences)} seeds"


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """`first` less `second`."""
    return Comparison(tuple(a - b for a, b in zip(first, second, strict=True)))


# --- the figure


def draw(results: dict[str, Result], grounds: Sequence[Ground], path: Path, *, crop: int = 224) -> None:
    """Scores with their spread, scores by cost, and what each network makes of two crops."""
    figure = plt.figure(figsize=(13, 8.2), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=[1, 1.25])
    bars, costs = top.subplots(1, 2, width_ratios=[1.4, 1])
    draw_scores(bars, results)
    draw_costs(costs, results)
    chosen = sorted(range(len(grounds)), key=lambda i: -outline(grounds[i], crop)[0])[:2]
    axes = bottom.subplots(len(chosen), 2 + len(results), squeeze=False)
    for line, index in zip(axes, chosen, strict=True):
        ground, window = grounds[index], outline(grounds[index], crop)[1]
        truth = ground.target[window]
        line[0].imshow(np.moveaxis(ground.data[:3, *window], 0, -1))
        line[1].imshow(agreement(truth, truth))
        for ax, result in zip(line[2:], results.values(), strict=True):
            ax.imshow(agreement(result.labels[index][window], truth))
    for ax, name in zip(axes[0], ("image", "truth", *results), strict=True):
        ax.set_title(name, fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    bottom.supxlabel("white: building, found    red: not there    blue: missed", fontsize=10)
    figure.savefig(path, dpi=115)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(160).save(path, optimize=True)  # a third of the bytes


def draw_scores(ax: Axes, results: dict[str, Result]) -> None:
    """Bars of the means with their standard deviation, a dot for each seed."""
    places = np.arange(len(results))
    for offset, key, label, color in (
        (-0.2, "iou", "IoU", "#4363d8"),
        (0.2, "boundary_iou", f"boundary IoU, {BAND} px", "#f58231"),
    ):
        values = [getattr(result, key) for result in results.values()]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        means = [statistics.mean(v) for v in values]
        ax.bar(places + offset, means, 0.38, yerr=spread, capsize=3, color=color, label=label)
        for place, seeds in zip(places + offset, values, strict=True):
            ax.plot([place] * len(seeds), seeds, "o", color="black", markersize=3)
    ax.set_xticks(places, list(results))
    ax.set_title("Buildings on held-back ground: mean, spread and each seed")
    ax.legend(frameon=False, ncols=2)
    ax.margins(y=0.2)
    ax.spines[["top", "right"]].set_visible(False)


def draw_costs(ax: Axes, results: dict[str, Result]) -> None:
    """Boundary IoU by multiply-accumulates."""
    for rank, (name, result) in enumerate(sorted(results.items(), key=lambda item: item[1].kmac)):
        mean = statistics.mean(result.boundary_iou)
        spread = statistics.stdev(result.boundary_iou) if len(result.boundary_iou) > 1 else 0
        ax.errorbar(result.kmac, mean, spread, fmt="o", capsize=3)
        ax.annotate(
            name, (result.kmac, mean), xytext=(6, -13 if rank % 2 else 5), textcoords="offset points", fontsize=9
        )
    ax.set_xscale("log")
    ax.set(xlabel="thousand multiply-accumulates a pixel", title="Boundary IoU by cost")
    ax.margins(0.3)
    ax.spines[["top", "right"]].set_visible(False)


def outline(ground: Ground, crop: int) -> tuple[float, tuple[slice, slice]]:
    """How much outline the crop with the most of it has, and where it is."""
    building = (ground.target == 1) & (ground.target != 255)
    edge = inner_band(building, 1)
    height, width = (min(crop, size) for size in edge.shape)
    places = [
        (slice(row, row + height), slice(col, col + width))
        for row in range(0, edge.shape[0] - height + 1, max(1, height // 2))
        for col in range(0, edge.shape[1] - width + 1, max(1, width // 2))
    ]
    return max(((float(edge[place].mean()), place) for place in places), key=lambda found: found[0])


def agreement(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: where buildings are found, invented and missed."""
    picture = np.full((*truth.shape, 3), 32, np.uint8)
    for found, there, color in ((1, 1, (255, 255, 255)), (1, 0, (230, 25, 75)), (0, 1, (67, 99, 216))):
        picture[((labels == 1) == bool(found)) & ((truth == 1) == bool(there))] = color
    picture[truth == 255] = 128
    return picture


if __name__ == "__main__":
    main()
