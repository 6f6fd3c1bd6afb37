"""Cross-entropy against cross-entropy + soft Dice: a 3D U-Net on a stack of dates, by five measures.

python examples/compare_dice.py [--data DIR] [--steps 500] [--seeds 5] [--out dice] [--quick]

DIR is the folder of labelled imagery (default: the environment's GEOSEG_DATA), of which the Sentinel-2 cube of
`cubes` is taken. Without it a stack is drawn. Runs that are there already are not repeated.

The cube is small, so all of it is held back once: it is cut into blocks, each belongs to one of several folds, and a
fold's network learns nothing in the fold's blocks nor within `GAP` pixels of them. What the folds predict in their
blocks makes one map and one confusion matrix, for each loss and seed. A pair of runs of one fold, on its blocks alone:

geoseg compare dice/entropy_0_0 dice/dice_0_0
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import rasterio
from affine import Affine
from rasterio.transform import from_bounds
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.stats import t as student

import geoseg
from geoseg.config import dump_config
from geoseg.metrics import ConfusionMatrix
from geoseg.predict import tune_malloc

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

LOSSES = {"cross-entropy": "cross_entropy:1", "cross-entropy + Dice": "cross_entropy:1,dice:1"}
MEASURES = {
    "precision": "precision", "sensitivity": "recall", "specificity": "specificity", "Jaccard": "iou", "Dice": "f1",
}  # fmt: skip
"""As they are called here -> in geoseg."""
CLASSES = {2: "forest", 3: "grassland", 4: "shrubland", 8: "artificial surface"}
"""By the cube's value. The others are no class here: 0 is unknown, and of 1, cultivated land, there are 11 pixels."""
CLEAR = slice(2, 5)
"""Of the five dates: the first two lie under clouds, whose shapes so small a scene would be learnt by."""
COLORS = ("#1b6b3a", "#b5d56a", "#c98b2b", "#d7263d")
MEAN = "mean"
UNKNOWN = 255
GAP = 5
"""Pixels round held-back blocks of which nothing is learnt."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""
Values = list[float]
"""One for each seed."""


@dataclass(frozen=True)
class Cube:
    """Dates on one grid, and their labels."""

    bands: np.ndarray
    """(dates, bands, H, W) float32."""
    target: np.ndarray
    """(H, W) uint8 class indices, 255 where unknown."""
    transform: Affine
    crs: str
    rgb: tuple[int, int, int]
    """Places of red, green and blue among the bands."""


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    steps: int
    seeds: int
    folds: int = 4
    """And so many rows and columns of blocks."""
    width: int = 8
    depth: int = 2
    tile_size: int = 32
    batch_size: int = 8


# --- data


def read_cube(folder: Path) -> Cube:
    """Sentinel-2 in its 13 bands at the three clear dates, and the land use of a valley in Slovenia."""
    arrays = np.load(folder / "eolearn_s2_slovenia.npz")
    bands = np.moveaxis(arrays["ref_scenes"][CLEAR], -1, 1).astype(np.float32)
    target = np.full(bands.shape[2:], UNKNOWN, np.uint8)
    for index, value in enumerate(CLASSES):
        target[arrays["lulc"][..., 0] == value] = index
    frame = json.loads((folder / "eolearn_bbox.geojson").read_text(encoding="utf-8"))
    x, y = np.array(frame["coordinates"][0]).T
    transform = from_bounds(x.min(), y.min(), x.max(), y.max(), *target.shape[::-1])
    return Cube(bands, target, transform, frame["crs"]["properties"]["name"], (3, 2, 1))


def draw_cube(side: int, dates: int = 3, seed: int = 0) -> Cube:
    """Smooth fields cut at heights, so that the later classes are rare; each class has a colour that time changes."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((side, side)), side / 12)
    target = np.digitize(field, np.quantile(field, (0.7, 0.9, 0.96))).astype(np.uint8)
    colors = rng.uniform(0.1, 0.5, (dates, 3, len(CLASSES)))
    bands = colors[:, :, target] + rng.normal(0, 0.03, (dates, 3, side, side))
    return Cube(bands.astype(np.float32), target, Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633", (0, 1, 2))


def blocks_of(fold: int, many: int, shape: tuple[int, int]) -> list[Box]:
    """The blocks that a fold holds back: one in each row and column of a lattice of `many` by `many`."""
    rows, cols = ([-(-size * edge // many) for edge in range(many + 1)] for size in shape)
    places = [(row, (fold - row) % many) for row in range(many)]
    return [(cols[col], rows[row], cols[col + 1], rows[row + 1]) for row, col in places]


def inside(boxes: list[Box], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool."""
    found = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        found[top:bottom, left:right] = True
    return found


def write_cube(cube: Cube, folds: int, out: Path) -> tuple[list[str], list[str]]:
    """Paths of a GeoTIFF for each date, and of a label raster for each fold, with a gap round its blocks."""
    dates = [str(out / f"date_{date}.tif") for date in range(len(cube.bands))]
    labels = [str(out / f"labels_{fold}.tif") for fold in range(folds)]
    for path, data in zip(dates, cube.bands, strict=True):
        write_tiff(path, data, cube)
    for fold, path in enumerate(labels):
        own = inside(blocks_of(fold, folds, cube.target.shape), cube.target.shape)
        gap = maximum_filter(own, 2 * GAP + 1) & ~own
        write_tiff(path, np.where(gap, UNKNOWN, cube.target)[None].astype(np.uint8), cube, nodata=UNKNOWN)
    return dates, labels


def write_tiff(path: str, data: np.ndarray, cube: Cube, nodata: int | None = None) -> None:
    """(bands, H, W) on the grid of the cube."""
    count, height, width = data.shape
    profile = {"count": count, "height": height, "width": width, "dtype": data.dtype, "nodata": nodata}
    with rasterio.open(
        path, "w", "GTiff", crs=cube.crs, transform=cube.transform, compress="deflate", **profile
    ) as file:
        file.write(data)


# --- training


def config_of(setup: Setup, loss: str, seed: int, source: dict) -> geoseg.TrainConfig:
    """One run, validated once, at its end: nothing is chosen by its score."""
    return geoseg.TrainConfig.model_validate(
        {
            "arch": "unet3d",
            "arch_args": {"dates": len(source["scene"]), "width": setup.width, "depth": setup.depth},
            "classes": [{"name": n, "color": c} for n, c in zip(CLASSES.values(), COLORS, strict=True)],
            "data": {"sources": [source]},
            "loss": loss,
            "optimizer": {"lr": 3e-3, "ema": 0.99},
            "augmentation": {"zoom": [0.8, 1.25]}
            | dict.fromkeys(("brightness", "contrast", "gamma", "color", "noise", "blur"), 0),
            "epochs": 1,
            "steps_per_epoch": setup.steps,
            "batch_size": setup.batch_size,
            "tile_size": setup.tile_size,
            "cell_side": 128,
            "seed": seed,
        }
    )


def predict(config: geoseg.TrainConfig, run: Path) -> np.ndarray:
    """(H, W) uint8 labels of the whole scene by a run, trained unless it was before."""
    said, labels = run / "config.yaml", run / "labels.tif"
    if not said.is_file() or said.read_text(encoding="utf-8") != dump_config(config):
        geoseg.train_model(config, run, device="cpu", overwrite=True)
    scene = config.data.sources[0].scenes
    products = geoseg.Products(labels=labels)
    settings = geoseg.Settings(device="cpu")
    geoseg.predict_scene(scene, run / "model.safetensors", products=products, settings=settings, overwrite=True)
    with rasterio.open(labels) as file:
        return file.read(1)


def measure(cube: Cube, setup: Setup, out: Path) -> dict[str, list[np.ndarray]]:
    """For each loss and seed, the labels that every pixel has from the network that did not learn there."""
    shape = cube.target.shape
    dates, labels = write_cube(cube, setup.folds, out)
    blocks = [blocks_of(fold, setup.folds, shape) for fold in range(setup.folds)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in LOSSES}
    for seed in range(setup.seeds):
        for name, loss in LOSSES.items():
            whole = np.full(shape, UNKNOWN, np.uint8)
            for fold, path in enumerate(labels):
                source = {"scene": dates, "labels": path, "train": [(0, 0, *shape[::-1])], "val": blocks[fold]}
                run = out / f"{'dice' if 'Dice' in name else 'entropy'}_{seed}_{fold}"
                own = predict(config_of(setup, loss, seed, source), run)
                held_back = inside(blocks[fold], shape)
                whole[held_back] = own[held_back]
            found[name].append(whole)
            print(f"seed {seed}  {name}: {scores(cube, whole)[MEAN]['Dice']:.3f}", flush=True)
    return found


# --- what came out


def scores(cube: Cube, labels: np.ndarray) -> dict[str, dict[str, float]]:
    """Every measure of each class and their mean; the precision of a class that is never predicted counts 0."""
    matrix = ConfusionMatrix(list(CLASSES.values()))
    matrix.update(cube.target, labels)
    found = {
        one.name: {measure: getattr(one, ours) or 0.0 for measure, ours in MEASURES.items()}
        for one in matrix.scores().classes
    }
    return found | {MEAN: {measure: statistics.fmean(one[measure] for one in found.values()) for measure in MEASURES}}


def by_seed(cube: Cube, maps: dict[str, list[np.ndarray]]) -> dict[str, dict[str, dict[str, Values]]]:
    """Loss -> class or mean -> measure -> a value for each seed."""
    found = {}
    for name, seeds in maps.items():
        each = [scores(cube, labels) for labels in seeds]
        found[name] = {row: {m: [one[row][m] for one in each] for m in MEASURES} for row in (*CLASSES.values(), MEAN)}
    return found


def interval(values: Values, others: Values) -> tuple[float, float]:
    """Mean of the differences seed by seed, and how far either way it is uncertain.

    The 95 % confidence interval of paired differences by Student's t: of n seeds, t(n - 1) times their standard
    deviation over the root of n; of five, 1.2 standard deviations. A single seed says nothing: infinitely far.

    Source: Student 1908, "The probable error of a mean", doi:10.2307/2331554.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    n = len(differences)
    if n < 2:
        return differences[0], float("inf")
    return statistics.fmean(differences), float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5


def table(found: dict[str, dict[str, dict[str, Values]]]) -> str:
    """Two rows for each class as Markdown. An arrow: Dice moves the measure by more than the spread over seeds."""
    first, second = found
    lines = [f"| class | loss | {' | '.join(MEASURES)} |", f"|---|---|{'---:|' * len(MEASURES)}"]
    for row in (*CLASSES.values(), MEAN):
        for name in found:
            cells = []
            for measure, values in found[name][row].items():
                by, within = interval(found[second][row][measure], found[first][row][measure])
                arrow = ("" if abs(by) <= within else " ↑" if by > 0 else " ↓") if name == second else ""
                spread = statistics.stdev(values) if len(values) > 1 else 0
                cells.append(f"{statistics.fmean(values):.3f} ± {spread:.3f}{arrow}")
            lines.append(f"| {row if name == first else ''} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(
    cube: Cube, maps: dict[str, list[np.ndarray]], found: dict[str, dict[str, dict[str, Values]]], path: Path
) -> None:
    """The five measures by class, a dot a seed, above the last date, the labels, and a map of each loss."""
    figure = plt.figure(figsize=(13, 7), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=[1, 1.3])
    draw_measures(top, found)
    axes = bottom.subplots(1, 4)
    image = np.moveaxis(cube.bands[-1, list(cube.rgb)], 0, -1)
    low, high = np.quantile(image, (0.01, 0.99), axis=(0, 1))
    axes[0].imshow(np.clip((image - low) / (high - low), 0, 1))
    pictures = {"labels (white: unknown)": cube.target} | {f"{name}, seed 0": seeds[0] for name, seeds in maps.items()}
    for axis, (title, labels) in zip(axes[1:], pictures.items(), strict=True):
        shown = np.ma.masked_equal(labels, UNKNOWN)
        axis.imshow(shown, cmap=ListedColormap(COLORS), vmin=0, vmax=len(COLORS) - 1, interpolation="nearest")
        axis.set_title(title, fontsize=11)
    axes[0].set_title("last date", fontsize=11)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    patches = [Patch(color=color, label=name) for color, name in zip(COLORS, CLASSES.values(), strict=True)]
    bottom.legend(handles=patches, loc="outside lower center", ncols=len(COLORS), frameon=False)
    figure.savefig(path, dpi=115)
    plt.close(figure)


def draw_measures(figure: mpl.figure.SubFigure, found: dict[str, dict[str, dict[str, Values]]]) -> None:
    """A panel for each measure, a row for each class."""
    rows = (*CLASSES.values(), MEAN)
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for axis, measure in zip(axes, MEASURES, strict=True):
        for name, color, shift in zip(found, ("#4363d8", "#f58231"), (-0.17, 0.17), strict=True):
            for place, row in enumerate(rows):
                values = found[name][row][measure]
                at = place + shift
                axis.plot([statistics.fmean(values)] * 2, [at - 0.15, at + 0.15], color=color, linewidth=2)
                axis.plot(values, [at] * len(values), "o", color=color, alpha=0.55, markersize=4)
            axis.plot([], [], "o", color=color, label=name)
        axis.set(yticks=range(len(rows)), yticklabels=rows, title=measure)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        if measure != "specificity":  # which is near 1 for every rare class
            axis.set_xlim(-0.04, 1.04)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def main(data: Path | None, out: Path, *, steps: int = 500, seeds: int = 5, quick: bool = False) -> None:
    """Everything lands in `out`: the cube as GeoTIFFs, a folder for each run, dice.md and dice.png."""
    begun = time.process_time()
    tune_malloc()
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()  # the sources of a run do not depend on where it is started
    setup = Setup(steps, seeds)
    cube = read_cube(data / "cubes") if data and (data / "cubes").is_dir() and not quick else draw_cube(96)
    if quick:
        setup = Setup(3, 2, folds=2, width=2, depth=1, tile_size=32, batch_size=2)
    maps = measure(cube, setup, out)
    found = by_seed(cube, maps)
    (out / "dice.md").write_text(table(found) + "\n", encoding="utf-8")
    draw(cube, maps, found, out / "dice.png")
    print(f"{table(found)}\n\n{(time.process_time() - begun) / 60:.1f} CPU minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known_data = os.environ.get("GEOSEG_DATA")
    parser.add_argument("--data", type=Path, default=Path(known_data) if known_data else None, help="labelled imagery")
    parser.add_argument("--out", type=Path, default=Path("dice"), help="folder to write")
    parser.add_argument("--steps", type=int, default=500, help="of each run")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each loss and fold")
    parser.add_argument("--quick", action="store_true", help="seconds: few steps on a drawn stack, to see that it runs")
    options = parser.parse_args()
    main(options.data, options.out, steps=options.steps, seeds=options.seeds, quick=options.quick)
