"""Runs of what is measured, each in a process of its own, and what is said of them."""

import json
import statistics
import subprocess
import sys

MISSED: list[str] = []
"""Bounds that were missed."""


def subject(name: str, *arguments: object, module: str = "subjects") -> dict[str, float]:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def alternate(rounds: int, module: str = "subjects", **subjects: tuple[object, ...]) -> dict[str, dict[str, float]]:
    """Medians of A B A B ... runs."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, call in subjects.items():
            runs[name].append(subject(*call, module=module))
    return {
        name: {key: statistics.median(run[key] for run in results) for key in results[0]}
        for name, results in runs.items()
    }


def report(what: str, value: float, bound: float, *, most: bool) -> None:
    fine = value <= bound if most else value >= bound
    print(
        f"  {what:<66} {value:8.3f}   goal {'<=' if most else '>='} {bound:<5} {'ok' if fine else 'MISSED'}",
        flush=True,
    )
    if not fine:
        MISSED.append(what)
