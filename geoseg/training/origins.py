"""Origins: which of a checkpoint's bands, heads and channels each of a run's comes from. The rules: `start.py`."""

import re
from collections.abc import Mapping, Sequence

from geoseg.checkpoint import Head
from geoseg.scene.bands import undated

_NUMBERED = re.compile(r"^band_\d+$")
"""What a band is called that has no name."""

Origins = list[int | None]
"""For each band, or channel, of the run: the checkpoint's that it comes from."""


def match_bands(theirs: Sequence[str], ours: Sequence[str]) -> Origins:
    """Which of the checkpoint's bands each of the run's comes from; None for a new one.

    Names are compared without case. The n-th band of a name, or a name with its date, goes with the checkpoint's; else
    with the checkpoint's first of that name.
    """
    lowered = [[name.lower() for name in names] for names in (theirs, ours)]
    unnamed = all(map(_NUMBERED.match, lowered[0])) or all(map(_NUMBERED.match, lowered[1]))
    if unnamed and len(theirs) == len(ours):
        return list(range(len(ours)))
    dated, plain = ([_keys(names, date) for names in lowered] for date in (True, False))
    found: Origins = []
    for exact, (name, _) in zip(dated[1], plain[1], strict=True):
        if exact in dated[0]:
            found.append(dated[0].index(exact))
        else:
            found.append(next((index for index, (other, _) in enumerate(plain[0]) if other == name), None))
    return found


def _keys(names: Sequence[str], date: bool) -> list[tuple[str, int]]:
    """Each name, with or without its date, and how many of that name came before it."""
    said = [name if date else undated(name) for name in names]
    return [(name, said[:index].count(name)) for index, name in enumerate(said)]


def match_heads(theirs: Mapping[str, Head], ours: Mapping[str, Head]) -> dict[str, str]:
    """The run's heads that go on from one of the checkpoint's, by name."""
    found = {}
    for name, head in ours.items():
        alike = [other for other, given in theirs.items() if _alike(given, head)]
        if name in alike:
            found[name] = name
        elif len(alike) == 1 and alike[0] not in ours:
            found[name] = alike[0]
    return found


def _alike(one: Head, other: Head) -> bool:
    return one.task == other.task and (one.unit == other.unit or not one.unit or not other.unit)


def match_channels(theirs: Mapping[str, Head], ours: Mapping[str, Head], partners: Mapping[str, str]) -> Origins:
    """Which of the checkpoint's channels each of the run's comes from."""
    begins, at = {}, 0
    for name, head in theirs.items():
        begins[name], at = at, at + head.channels
    found: Origins = []
    for name, head in ours.items():
        if name not in partners:
            found += [None] * head.channels
            continue
        given, begin = theirs[partners[name]], begins[partners[name]]
        names = [item.name for item in given.classes]
        wanted = [item.name for item in head.classes]
        if head.task == "regression":
            found.append(begin)
        elif head.task == "binary":  # the logit is the second class's
            found.append(begin if wanted[1] == names[1] else None)
        else:
            places = [names.index(one) if one in names else None for one in wanted]
            if head.exclusive and places[0] is None and 0 not in places:
                places[0] = 0
            found += [None if place is None else begin + place for place in places]
    return found
