"""Train the same small U-Net on the same tiles by every loss, and say which differences exceed the spread over seeds.

python examples/compare_losses.py [--data DIR] [--steps 200] [--seeds 3] [--out losses] [--quick]

DIR is the folder of labelled imagery (default: the environment's GEOSEG_DATA), of which the Dubai tiles are taken that
have few buildings and roads. Without it synthetic towns are drawn. An interrupted run goes on where it was.
"""

import argparse
import csv
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

import geoseg

mpl.use("Agg")
import matplotlib.pyplot as plt

FIRST = "cross_entropy"
"""What the others are compared with."""
FAMILIES = (
    FIRST, "bce", "focal", "dice", "generalized_dice", "jaccard", "tversky", "focal_tversky", "lovasz", "lovasz_hinge",
    "dice:1,boundary:0.01", "cldice(class_weights=[0,1,1])",
)  # fmt: skip
MIXTURES = (
    "cross_entropy:1,dice:1",
    "focal:1,tversky(alpha=0.3,beta=0.7):1,lovasz:0.5",
    "cross_entropy:1,cldice(class_weights=[0,1,1]):1",
)
CLASSES = ("background", "building", "road")
MEAN = "mean"
TILES = "tile[1236]"
"""Dubai tiles of which buildings and roads are 1 to 13 %."""


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    data: dict
    steps: int
    tile_size: int = 128
    batch_size: int = 8
    width: int = 8
    depth: int = 3

    @property
    def kind(self) -> str:
        """What the tiles are, for the table of scores."""
        return "synthetic" if "synthetic" in self.data["sources"][0] else "dubai"

    def config(self, loss: str, seed: int) -> geoseg.TrainConfig:
        """One run: as many steps as any other, validated once, at their end."""
        return geoseg.TrainConfig.model_validate(
            {
                "arch": "unet",
                "arch_args": {"width": self.width, "depth": self.depth},
                "classes": [{"name": name} for name in CLASSES],
                "data": self.data,
                "loss": loss,
                "optimizer": {"lr": 2e-3, "ema": 0.98},
                "epochs": 1,
                "steps_per_epoch": self.steps,
                "batch_size": self.batch_size,
                "tile_size": self.tile_size,
                "cell_side": 512,
                "seed": seed,
            }
        )


def sources(folder: Path | None, side: int) -> dict:
    """Tiles of the folder, or synthetic towns of `side` pixels."""
    if folder is None or not (folder / "dubai").is_dir():
        towns = {"size": side, "gsd_range": [0.3, 0.6]}
        val = {"synthetic": 2, "seed": 900, "split": "val"}
        return {"sources": [{"synthetic": 6, "seed": 800} | towns, val | towns]}
    common = {
        "folder": str((folder / "dubai").resolve()),
        "labels": "{parent}/{stem}_mask.png",
        "values": {1: "building", 2: "road", 3: "background", 4: "background", 5: "background"},
    }
    train = common | {"images": f"{TILES}/part[1-4678].jpg", "split": "train", "zoom": [0.7, 1.3]}
    return {"sources": [train, common | {"images": f"{TILES}/part[59].jpg", "split": "val"}]}


def train(setup: Setup, loss: str, seed: int, run: Path) -> dict[str, float]:
    """IoU of each class, and the mean of those after the background."""
    seen: list[dict[str, float]] = []
    config = setup.config(loss, seed)
    geoseg.train_model(config, run, overwrite=True, on_epoch=lambda epoch: seen.append(epoch.iou))
    iou = {name: seen[-1].get(name) or 0.0 for name in CLASSES}
    return iou | {MEAN: statistics.fmean(list(iou.values())[1:])}


def measure(setup: Setup, losses: list[str], seeds: int, out: Path) -> dict[str, list[dict[str, float]]]:
    """The scores of every run, by loss; each is written to `scores.csv` as soon as it is there."""
    file, known = out / "scores.csv", {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                scores = {name: float(row[name]) for name in (*CLASSES, MEAN)}
                known[row["data"], row["loss"], int(row["seed"]), int(row["steps"])] = scores
    found: dict[str, list[dict[str, float]]] = {loss: [] for loss in losses}
    for seed in range(seeds):
        for loss in losses:
            key = (setup.kind, loss, seed, setup.steps)
            if key not in known:
                known[key] = train(setup, loss, seed, out / "run")
                first = not file.is_file()
                with file.open("a", newline="", encoding="utf-8") as lines:
                    writer = csv.DictWriter(lines, ["data", "loss", "seed", "steps", *CLASSES, MEAN])
                    if first:
                        writer.writeheader()
                    run = dict(zip(("data", "loss", "seed", "steps"), key, strict=True))
                    writer.writerow(run | known[key])
                print(f"seed {seed}  {loss}: {known[key][MEAN]:.3f}", flush=True)
            found[loss].append(known[key])
    return found


def spread(values: list[float]) -> float:
    """Standard deviation over seeds; 0 of a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Mean and spread of each loss as Markdown.

    A difference from the first loss counts when it is more than twice the pooled standard deviation over seeds.
    """
    lines = [f"| loss | {' | '.join(CLASSES)} | mean of the last two | against {FIRST} |", "|---|" + "---|" * 5]
    first = [scores[MEAN] for scores in found[FIRST]]
    for loss, runs in found.items():
        columns = [[scores[name] for scores in runs] for name in (*CLASSES, MEAN)]
        cells = [f"{statistics.fmean(values):.3f} ± {spread(values):.3f}" for values in columns]
        by = statistics.fmean(columns[-1]) - statistics.fmean(first)
        noise = ((spread(columns[-1]) ** 2 + spread(first) ** 2) / 2) ** 0.5
        said = "exceeds the spread" if abs(by) > 2 * noise else "within the spread"
        cells.append("" if loss == FIRST else f"{by:+.3f}" if len(runs) < 2 else f"{by:+.3f}, {said}")
        lines.append(f"| `{loss}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A row a loss: a dot a seed, a line at the mean, and the first loss's mean as a line through all rows."""
    names = CLASSES[1:]
    height = 1.4 + 0.32 * len(found)
    figure, axes = plt.subplots(1, len(names), figsize=(10, height), sharey=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        axis.axvline(statistics.fmean(scores[name] for scores in found[FIRST]), color="#bbbbbb", linewidth=1)
        for row, runs in enumerate(found.values()):
            values = [scores[name] for scores in runs]
            axis.plot(values, [row] * len(values), "o", color="#4363d8", alpha=0.6, markersize=5)
            axis.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], color="#e6194b", linewidth=2)
        axis.set(title=f"IoU of {name}", yticks=range(len(found)), yticklabels=list(found))
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    figure.suptitle(f"Dots: seeds. Red: their mean. Grey: the mean of {FIRST}.", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(data: Path | None, out: Path, *, steps: int = 200, seeds: int = 3, quick: bool = False) -> None:
    """Everything lands in `out`: scores.csv, losses.md, losses.png, and the last run's folder."""
    out.mkdir(parents=True, exist_ok=True)
    setup, losses = Setup(sources(data, 768), steps), [*FAMILIES, *MIXTURES]
    if quick:
        setup = Setup(sources(None, 128), 3, tile_size=32, batch_size=2, width=2, depth=2)
        losses, seeds = [FIRST, "dice", MIXTURES[1]], 2
    found = measure(setup, losses, seeds, out)
    (out / "losses.md").write_text(table(found) + "\n", encoding="utf-8")
    draw(found, out / "losses.png")
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known_data = os.environ.get("GEOSEG_DATA")
    parser.add_argument("--data", type=Path, default=Path(known_data) if known_data else None, help="labelled imagery")
    parser.add_argument("--out", type=Path, default=Path("losses"), help="folder to write")
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each loss")
    parser.add_argument("--quick", action="store_true", help="seconds: three losses, tiny towns, to see that it runs")
    options = parser.parse_args()
    main(options.data, options.out, steps=options.steps, seeds=options.seeds, quick=options.quick)
