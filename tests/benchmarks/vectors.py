"""`python -m tests.benchmarks vectors`: quality and CPU time of vectors on a synthetic city, against the usual chains.

`python -m tests.benchmarks.vectors --side 20000 --seed 1 --curves --strip OUT.png` for more. CPU seconds are those of
one process, the city's own making and the scoring left out; every chain runs once on a small city first, so that
nothing is compiled while the clock runs. Exits with 1 when a goal is missed.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geoseg.metrics.objects import score_objects
from geoseg.metrics.roads import score_roads
from tests.benchmarks.rivals import BUILDINGS, POLYGONS, ROADS, Missing, Streets, chosen
from tests.benchmarks.runs import MISSED, report
from tests.city import City, make_city

SIDE = 5000
NOISE = 0.875
"""Of the city: its raw outlines then have the IoU (0.897) of those of the city that the goals were set on."""
WARM_SIDE = 500
COLUMNS = {
    "buildings": {
        "f1": "F1", "mean_iou": "IoU", "polis_m": "PoLiS m", "c_iou": "C-IoU", "corners_right": "corners",
        "boundary_iou": "B-IoU", "area_bias": "area", "invalid": "invalid", "overlapping": "overlap",
    },
    "roads": {
        "apls": "APLS", "junction_f1": "junction F1", "dead_end_ratio": "dead ends", "precision": "correct",
        "recall": "complete", "width_error_m": "width m", "vertices_per_km": "vert/km",
    },
}  # fmt: skip
"""Fields of the scores, and what they are called in the table."""
GOALS: dict[str, list[tuple[str, float, bool]]] = {
    "buildings": [
        ("f1", 0.96, False), ("mean_iou", 0.92, False), ("polis_m", 0.20, True), ("c_iou", 0.91, False),
        ("corners_right", 0.93, False), ("invalid", 0, True), ("overlapping", 0, True), ("area_off", 0.005, True),
        ("iou_over_raw", 0, False), ("s_per_10k", 30 / 4.5, True),
    ],
    "roads": [
        ("apls", 0.95, False), ("junction_f1", 0.88, False), ("dead_end_ratio", 1.3, True),
        ("width_error_m", 0.25, True), ("vertices_per_km", 45, True), ("s_per_km", 40 / 707, True),
    ],
}  # fmt: skip
"""Field, bound, and whether it is the most or the least: 15 s for 45 000 buildings, 20 s for 707 km, on two cores."""
POLYGONIZE_S = 4 / 400
"""CPU seconds a megapixel."""
LABELS_ALONE = 0.005
"""IoU that a class raster without probabilities may lose."""
RAW, WALLS, ALONE, STREETS = (
    "features.shapes (raw pixels)",
    "geoseg walls",
    "geoseg walls, labels alone",
    "geoseg streets",
)
Rows = dict[str, dict[str, Any]]


def measured(chain: Callable[[City], Any], city: City) -> tuple[Any, float]:
    """What a chain makes, and the CPU seconds it takes, its child processes included."""
    before = _cpu()
    made = chain(city)
    return made, _cpu() - before


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def score_buildings(shapes: np.ndarray, city: City, cpu: float) -> dict[str, Any]:
    scores = score_objects(shapes, city.buildings, area=city.area).to_dict()
    return scores | {
        "cpu": cpu,
        "s_per_10k": cpu / max(len(city.buildings), 1) * 1e4,
        "area_off": abs(scores["area_bias"] or 0.0),
    }


def score_streets(found: Streets, city: City, cpu: float) -> dict[str, Any]:
    scores = score_roads(
        found.lines,
        city.roads,
        predicted_width_m=found.width_m,
        reference_width_m=city.width_m,
        area=city.area,
    ).to_dict()
    return scores | {
        "cpu": cpu,
        "s_per_km": cpu / (shapely.length(city.roads).sum() / 1000),
        "dead_end_ratio": scores["dead_ends"] / max(scores["reference_dead_ends"], 1),
    }


ROUNDS = 3

SCORERS: dict[str, Callable[..., dict[str, Any]]] = {"buildings": score_buildings, "roads": score_streets}


def compare(kind: str, chains: dict[str, Callable[[City], Any]], city: City, warm: City) -> Rows:
    """A row of the table for each chain; one that cannot run says why and is left out."""
    rows: Rows = {}
    titles = COLUMNS[kind]
    print(f"  {'':<36}" + "".join(f"{title:>12}" for title in titles.values()) + f"{'CPU s':>10}")
    for name, chain in chains.items():
        try:
            chain(warm)
            made, cpu = measured(chain, city)
        except Missing as err:
            print(f"  {name:<36}  left out: {err}")
            continue
        rows[name] = SCORERS[kind](made, city, cpu)
        figures = "".join(f"{_figure(rows[name][field]):>12}" for field in titles)
        print(f"  {name:<36}{figures}{cpu:>10.2f}", flush=True)
    return rows


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def check(kind: str, rows: Rows) -> None:
    """Goals of geoseg's own row, if it was asked for."""
    own = WALLS if kind == "buildings" else STREETS
    if own not in rows:
        return
    scores = dict(rows[own])
    if kind == "buildings" and RAW in rows:
        scores["iou_over_raw"] = scores["mean_iou"] - rows[RAW]["mean_iou"]
    for field, bound, most in GOALS[kind]:
        if scores.get(field) is not None:
            report(f"{own}: {field}", scores[field], round(bound, 4), most=most)
    if kind == "buildings" and ALONE in rows:
        lost = scores["mean_iou"] - rows[ALONE]["mean_iou"]
        report(f"{own}: IoU lost without probabilities", lost, LABELS_ALONE, most=True)


def polygonize(city: City, warm: City) -> None:
    """Each in turn, and again: medians."""
    print(f"  polygonize, 2 classes, medians of {ROUNDS}")
    megapixels = city.planes.values.size / 1e6
    for chain in POLYGONS.values():
        chain(warm)
    seen: dict[str, list[float]] = {name: [] for name in POLYGONS}
    for _ in range(ROUNDS):
        for name, chain in POLYGONS.items():
            count, cpu = measured(chain, city)
            seen[name].append(cpu)
    for name, found in seen.items():
        cpu = statistics.median(found)
        print(f"  {name:<36} {cpu:.2f} CPU s, {1000 * cpu / megapixels:.1f} ms a megapixel")
    print(f"  {count} polygons")
    report(f"{name}: CPU s a megapixel", cpu / megapixels, POLYGONIZE_S, most=True)


def curves(side: int, seed: int, warm: City) -> None:
    """Raw outlines and baselines against geoseg, over how bad the network is and how wide a pixel."""
    chains = {"buildings": (RAW, WALLS), "roads": ("skeletonize + sknw + simplify .5 m", STREETS)}
    shown = {"buildings": ("mean_iou", "polis_m", "f1"), "roads": ("apls", "junction_f1")}
    settings = [(0.3, noise) for noise in (0.0, 0.5, 1.0, 1.5, 2.0)] + [(gsd, 1.0) for gsd in (0.15, 0.5, 0.8)]
    for gsd, noise in settings:
        city = make_city(max(int(side * 0.3 / gsd), WARM_SIDE), gsd=gsd, seed=seed, noise=noise)
        print(f"  gsd {gsd} m, noise {noise}")
        for kind, names in chains.items():
            for name in names:
                try:
                    made, cpu = measured((BUILDINGS | ROADS)[name], city)  # type: ignore[operator]
                except Missing as err:
                    print(f"    {name:<36} left out: {err}")
                    continue
                scores = SCORERS[kind](made, city, cpu)
                figures = ", ".join(f"{field} {_figure(scores[field])}" for field in shown[kind])
                print(f"    {name:<36} {figures}", flush=True)


def vectors(
    side: int = SIDE, seed: int = 0, names: list[str] | None = None, *, curve: bool = False, strip: Path | None = None
) -> None:
    """Everything; goals that are missed go into `MISSED`."""
    warm = make_city(WARM_SIDE, seed=3)
    city = make_city(side, seed=seed, noise=NOISE)
    kilometres = shapely.length(city.roads).sum() / 1000
    print(f"vectors: {side} x {side} pixels of 0.3 m, {len(city.buildings)} buildings, {kilometres:.0f} km of road")
    polygonize(city, warm)
    for kind, chains in (("buildings", BUILDINGS), ("roads", ROADS)):
        print(f"  {kind}")
        if wanted := chosen(names or [], chains):
            check(kind, compare(kind, wanted, city, warm))
    if curve:
        curves(2000, seed, warm)
    if strip is not None:
        from tests.benchmarks.strip import draw_strip

        draw_strip(city, strip)
        print(f"  {strip}")
    print(f"  peak resident set {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of chains (default: all)")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--curves", action="store_true", help="also over noise and pixel size")
    parser.add_argument("--strip", type=Path, help="PNG of before and after")
    options = parser.parse_args()
    vectors(options.side, options.seed, options.names, curve=options.curves, strip=options.strip)
    sys.exit(f"missed: {'; '.join(MISSED)}" if MISSED else 0)


if __name__ == "__main__":
    main()
