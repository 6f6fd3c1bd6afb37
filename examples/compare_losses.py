"""Train the same small U-Net on the same tiles by every loss, and say which differences exceed the spread over seeds.

python examples/compare_losses.py [--data DIR] [--steps 800] [--seeds 3] [--out losses] [--quick]

DIR is the folder of labelled imagery (default: the environment's GEOSEG_DATA), of which the Dubai tiles are taken that
have few buildings and roads. Without it synthetic towns are drawn. An interrupted run goes on where it was.
"""

import argparse
import csv
import os
import statistics
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from scipy.stats import t as student

import geoseg
from geoseg.config import dump_config
from geoseg.predict import tune_malloc

mpl.use("Agg")
import matplotlib.pyplot as plt

FIRST = "cross_entropy"
"""What the others are compared with."""
FAMILIES = (
    FIRST, "bce", "focal", "dice", "generalized_dice", "jaccard", "tversky", "focal_tversky", "lovasz", "lovasz_hinge",
    "dice:1,boundary:0.01", "cldice(class_weights=[0,1,1])",
)  # fmt: skip
"""A boundary loss needs an overlap loss beside it, and the background has no centreline worth keeping."""
MIXTURES = (
    "cross_entropy:1,dice:1",
    "focal:1,tversky(alpha=0.3,beta=0.7):1,lovasz:0.5",
    "cross_entropy:1,cldice(class_weights=[0,1,1]):1",
)
CLASSES = ("background", "building", "road")
MEAN = "mean"
"""Of the classes after the background."""
TILES = "tile[17]"
"""Dubai tiles of which buildings and roads are 4 to 13 % each. With those that have fewer still (3, 5, 6), losses that
count pixels may learn no road at all in as few steps."""
COLLAPSED = 0.01
"""A run with a class of a lower IoU has not learnt that class."""

Scores = dict[str, float]
"""One run: IoU of each class and their `MEAN`, and CPU `seconds`."""


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    data: dict
    steps: int
    tile_size: int = 128
    batch_size: int = 4
    width: int = 8
    depth: int = 3

    def config(self, loss: str, seed: int) -> geoseg.TrainConfig:
        """One run: as many steps as any other, validated once, at their end: nothing is chosen by its score.

        The same seed begins with the same parameters and draws the same samples, whatever the loss. Only geometry is
        changed at random: a network as small as this one learns slowly under changing light.
        """
        return geoseg.TrainConfig.model_validate(
            {
                "arch": "unet",
                "arch_args": {"width": self.width, "depth": self.depth},
                "classes": [{"name": name} for name in CLASSES],
                "data": self.data,
                "loss": loss,
                "optimizer": {"lr": 3e-3, "ema": 0.99},
                "augmentation": dict.fromkeys(("brightness", "contrast", "gamma", "color", "noise", "blur"), 0),
                "epochs": 1,
                "steps_per_epoch": self.steps,
                "batch_size": self.batch_size,
                "tile_size": self.tile_size,
                "cell_side": 512,
                "seed": seed,
            }
        )


def sources(folder: Path | None, *, side: int = 768, towns: int = 6) -> dict:
    """Tiles of the folder; or synthetic towns of `side` pixels, so many to learn from, and a third to be scored on."""
    if folder is None or not (folder / "dubai").is_dir():
        common = {"size": side, "gsd_range": [0.3, 0.6]}
        val = {"synthetic": max(1, towns // 3), "seed": 900, "split": "val"}
        return {"sources": [{"synthetic": towns, "seed": 800} | common, val | common]}
    common = {
        "folder": str((folder / "dubai").resolve()),
        "labels": "{parent}/{stem}_mask.png",
        "values": {1: "building", 2: "road", 3: "background", 4: "background", 5: "background"},
    }
    train = common | {"images": f"{TILES}/part[1-4678].jpg", "split": "train", "zoom": [0.7, 1.3]}
    return {"sources": [train, common | {"images": f"{TILES}/part[59].jpg", "split": "val"}]}


# --- training


def train(config: geoseg.TrainConfig, run: Path) -> Scores:
    """The scores of a new run."""
    seen: list[dict[str, float | None]] = []
    begun = time.process_time()
    geoseg.train_model(config, run, overwrite=True, on_epoch=lambda epoch: seen.append(epoch.iou))
    iou = {name: seen[-1].get(name) or 0.0 for name in CLASSES}
    return iou | {MEAN: statistics.fmean(list(iou.values())[1:]), "seconds": time.process_time() - begun}


def measure(setup: Setup, losses: list[str], seeds: int, out: Path) -> dict[str, list[Scores]]:
    """The scores of every run, by loss; each is written to `scores.csv` as soon as it is there."""
    file, columns = out / "scores.csv", (*CLASSES, MEAN, "seconds")
    known = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            known = {row["config"]: {name: float(row[name]) for name in columns} for row in csv.DictReader(lines)}
    found: dict[str, list[Scores]] = {loss: [] for loss in losses}
    for seed in range(seeds):
        for loss in losses:
            config = setup.config(loss, seed)
            key = f"{zlib.crc32(dump_config(config).encode()):08x}"
            if key not in known:
                known[key] = train(config, out / "run")
                first = not file.is_file()
                with file.open("a", newline="", encoding="utf-8") as lines:
                    writer = csv.DictWriter(lines, ["loss", "seed", *columns, "config"])
                    if first:
                        writer.writeheader()
                    writer.writerow({"loss": loss, "seed": seed, "config": key} | known[key])
                print(f"seed {seed}  {loss}: {known[key][MEAN]:.3f}", flush=True)
            found[loss].append(known[key])
    return found


# --- what came out


def interval(values: list[float], others: list[float]) -> tuple[float, float]:
    """Mean of the differences seed by seed, and how far either way it is uncertain.

    The 95 % confidence interval of paired differences by Student's t: of n seeds, t(n - 1) times their standard
    deviation over the root of n; of three, 2.5 standard deviations. A single seed says nothing: infinitely far.

    Source: Student 1908, "The probable error of a mean", doi:10.2307/2331554.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    n = len(differences)
    if n < 2:
        return differences[0], float("inf")
    return statistics.fmean(differences), float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5


def ranked(found: dict[str, list[Scores]]) -> dict[str, list[Scores]]:
    """The best first."""
    return dict(sorted(found.items(), key=lambda item: -statistics.fmean(run[MEAN] for run in item[1])))


def with_spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def compared(values: list[float], others: list[float]) -> str:
    """Mean and spread, marked where they differ from others by more than the spread of the differences."""
    return marked(with_spread(values), *interval(values, others))


def marked(said: str, by: float, within: float) -> str:
    """Bold where an interval leaves 0 out."""
    return f"**{said}**" if abs(by) > within else said


def collapsed(runs: list[Scores]) -> str:
    """Classes that were not learnt, and in how many runs."""
    failures = {name: sum(run[name] < COLLAPSED for run in runs) for name in CLASSES[1:]}
    return ", ".join(f"{name} in {count} of {len(runs)}" for name, count in failures.items() if count)


def table(found: dict[str, list[Scores]]) -> str:
    """A row for each loss as Markdown, the best first. Bold: more than the spread over seeds from the first."""
    names = (*CLASSES[1:], MEAN)
    head = ("loss", *names, f"mean less that of {FIRST}", f"not learnt (IoU below {COLLAPSED})")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(names) + 1)}---|"]
    first = [run[MEAN] for run in found[FIRST]]
    for loss, runs in ranked(found).items():
        by, within = interval([run[MEAN] for run in runs], first)
        said = f"{by:+.3f} ± {within:.3f}"
        said = "" if loss == FIRST else marked(said, by, within)
        cells = [compared([run[name] for run in runs], [run[name] for run in found[FIRST]]) for name in names]
        lines.append(f"| `{loss}` | {' | '.join([*cells, said, collapsed(runs)])} |")
    return "\n".join(lines)


def draw(found: dict[str, list[Scores]], path: Path) -> None:
    """A row a loss, the best first: the IoU of every run, and how the loss differs from the first one."""
    found = ranked(found)
    *left, right = names = (*CLASSES[1:], MEAN)
    figure, axes = plt.subplots(1, len(names), figsize=(13, 1.7 + 0.34 * len(found)), sharey=True, layout="constrained")
    for axis, name in zip(axes, left, strict=False):
        axis.axvline(statistics.fmean(run[name] for run in found[FIRST]), color="#999999")
        for row, runs in enumerate(found.values()):
            values = [run[name] for run in runs]
            axis.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], color="#e6194b", linewidth=2)
            axis.plot(values, [row] * len(values), "o", color="#4363d8", alpha=0.7, markersize=5)
        axis.set_title(f"IoU of {name}")
        axis.set_xlim(left=min(-0.01, axis.get_xlim()[0]))
    axes[-1].axvline(0, color="#999999")
    first = [run[right] for run in found[FIRST]]
    for row, (loss, runs) in enumerate(found.items()):
        by, within = interval([run[right] for run in runs], first)
        color = "#e6194b" if abs(by) > within else "#888888"
        if loss != FIRST:
            axes[-1].errorbar(by, row, xerr=within if len(runs) > 1 else None, fmt="o", color=color, capsize=3)
    axes[-1].set_title(f"Mean, less {FIRST}'s")
    for axis in axes:
        axis.set(yticks=range(len(found)), yticklabels=[loss.replace(",", ", ") for loss in found])
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.supxlabel(
        f"Left and middle: a dot a seed, red their mean, grey the mean of {FIRST}. "
        "Right: 95 % interval of the differences seed by seed, red where it leaves out 0.",
        fontsize=10,
    )
    figure.savefig(path, dpi=115)
    plt.close(figure)


def main(data: Path | None, out: Path, *, steps: int = 800, seeds: int = 3, quick: bool = False) -> None:
    """Everything lands in `out`: scores.csv, losses.md, losses.png, and the last run's folder."""
    tune_malloc()
    out.mkdir(parents=True, exist_ok=True)
    setup, losses = Setup(sources(data), steps), [*FAMILIES, *MIXTURES]
    if quick:
        setup = Setup(sources(None, side=96, towns=1), 3, tile_size=32, batch_size=2, width=2, depth=2)
        losses, seeds = [FIRST, "dice", MIXTURES[1]], 2
    found = measure(setup, losses, seeds, out)
    (out / "losses.md").write_text(table(found) + "\n", encoding="utf-8")
    draw(found, out / "losses.png")
    minutes = sum(run["seconds"] for runs in found.values() for run in runs) / 60
    print(f"{table(found)}\n\n{minutes:.1f} CPU minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known_data = os.environ.get("GEOSEG_DATA")
    parser.add_argument("--data", type=Path, default=Path(known_data) if known_data else None, help="labelled imagery")
    parser.add_argument("--out", type=Path, default=Path("losses"), help="folder to write")
    parser.add_argument("--steps", type=int, default=800, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each loss")
    parser.add_argument("--quick", action="store_true", help="seconds: three losses, tiny towns, to see that it runs")
    options = parser.parse_args()
    main(options.data, options.out, steps=options.steps, seeds=options.seeds, quick=options.quick)
