"""A comparison as text of at most 100 columns."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from geoseg.compare.bootstrap import FEW, Estimate

if TYPE_CHECKING:
    from geoseg.compare import Comparison, Scored

_COLUMNS = 100
_NAME = 20
"""Characters of a run's name that are shown, its last ones."""


def comparison_table(found: "Comparison") -> str:
    """A block for each class and one for all together, what the models cost, and what the figures rest on."""
    names = [_short(facts.name) for facts in found.runs]
    blocks = []
    if found.scores:
        blocks += [_of_class(found, names, label) for label in found.classes[1:]]
        blocks.append(_overall(found, names))
    if further := _further(found, names):
        blocks.append(further)
    blocks.append(_costs(found, names))
    return "\n\n".join([*blocks, "\n".join(_foot(found))])


def _of_class(found: "Comparison", names: Sequence[str], label: str) -> str:
    shown = ("f1", "precision", "sensitivity", "specificity")
    title = (label, "IoU", "95 %", *_more(found), "F1", "prec.", "sens.", "spec.")
    rows = []
    for index, (name, scored) in enumerate(zip(names, found.scores, strict=True)):
        own, more = scored.classes[label], _difference(found, index)
        figures = [_value(own[score]) for score in shown]
        rows.append((name, *_interval(own["iou"]), *_signed(more.classes[label]["iou"] if more else None), *figures))
    return _aligned([title, *rows])


def _overall(found: "Comparison", names: Sequence[str]) -> str:
    title = ("all classes", "mean IoU", "95 %", *_more(found), "accuracy", "kappa", "ECE")
    rows = []
    for index, (name, scored) in enumerate(zip(names, found.scores, strict=True)):
        own, more, ece = scored.overall, _difference(found, index), found.runs[index].ece
        figures = [_value(own["accuracy"]), _value(own["kappa"]), _number(ece)]
        rows.append((name, *_interval(own["iou_mean"]), *_signed(more.overall["iou_mean"] if more else None), *figures))
    return _aligned([title, *rows])


def _further(found: "Comparison", names: Sequence[str]) -> str:
    """Scores of further heads: a row for each, as there may be many; a column for each run."""
    scores = list(dict.fromkeys(score for facts in found.runs for score in facts.further))
    rows = [(score, *(_wide(facts.further.get(score)) for facts in found.runs)) for score in scores]
    return _aligned([("further heads", *names), *rows]) if rows else ""


def _costs(found: "Comparison", names: Sequence[str]) -> str:
    title = ("model", "architecture", "params", "MB", "kMAC/px", "Mpx/s", "epochs", "minutes", "samples/s")
    rows = [
        (
            name,
            facts.arch,
            f"{facts.parameters / 1e6:.2f} M",
            f"{facts.bytes / 1e6:.1f}",
            f"{facts.macs_per_pixel / 1e3:.1f}",
            f"{facts.megapixels_per_s:.2f}",
            "-" if facts.epochs is None else str(facts.epochs),
            "-" if facts.minutes is None else f"{facts.minutes:.1f}",
            "-" if facts.samples_per_s is None else f"{facts.samples_per_s:.1f}",
        )
        for name, facts in zip(names, found.runs, strict=True)
    ]
    return _aligned([title, *rows], left=2)


def _foot(found: "Comparison") -> list[str]:
    """What the figures rest on."""
    lines = []
    if found.scores:
        what = f"{found.tiles} validation tile{'' if found.tiles == 1 else 's'} of {found.sources} "
        what += f"source{'' if found.sources == 1 else 's'}"
        lines.append(f"{what}; intervals by {found.resamples} draws of tiles, the same for every run.")
        if len(found.runs) > 1:
            lines.append("more: than the first run, paired tile by tile; * where the interval leaves 0 out.")
        lines.append("Intervals say how much is left to the choice of tiles, nothing of other seeds or other cities.")
        if found.tiles < FEW:
            lines.append(f"With fewer than {FEW} tiles, intervals are too narrow.")
    lines.append("ECE and further heads: on each run's own validation ground.")
    lines.append(f"Mpx/s: tiles of 512 px in memory, measured now ({found.device}).")
    return [line for text in [*lines, *found.notes] for line in wrap(text, _COLUMNS)]


def _more(found: "Comparison") -> tuple[str, str, str]:
    """Titles of the difference, its interval and the mark; of a single run these columns are empty, and not shown."""
    return ("more", "95 %", "") if found.differences else ("", "", "")


def _difference(found: "Comparison", index: int) -> "Scored | None":
    return found.differences[index - 1] if index else None


def _interval(one: Estimate | None) -> tuple[str, str]:
    if one is None or one.low is None:
        return _value(one), ""
    return _value(one), f"{one.low:.3f}..{one.high:.3f}"


def _signed(one: Estimate | None) -> tuple[str, str, str]:
    if one is None:
        return "", "", ""
    if one.low is None:
        return f"{one.value:+.3f}", "", ""
    return f"{one.value:+.3f}", f"{one.low:+.3f}..{one.high:+.3f}", "*" if one.decided else ""


def _value(one: Estimate | None) -> str:
    return _number(one.value if one else None)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _wide(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def _aligned(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest entry: the first `left` begin together, the others end together."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            text.ljust(width) if at < left else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
            if width
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)
