"""Kinds: what a class is on the ground decides how it is outlined."""

from collections.abc import Mapping, Sequence

from geoseg.errors import UsageError, listed, nearest

KINDS = ("building", "road", "area")
"""Walls; streets, as surfaces and centrelines; anything else, whose neighbours share their edges."""
_SAID = {
    "building": ("building", "house", "roof", "footprint"),
    "road": ("road", "street", "highway"),
}
"""What a name of each kind begins or ends with, also in the plural: "Buildings", "unpaved_road", "roof (tin)"."""

_BACKGROUND = (
    *("background", "nodata", "none", "nothing", "other", "rest", "void", "ignore", "ignored", "unknown"),
    *("unclassified", "unlabelled", "unlabeled"),
)


def is_background(name: str) -> bool:
    """Whether a name says that a value is no class: background, nodata, unlabelled, other and the like."""
    return "".join(filter(str.isalnum, name.casefold())).removesuffix("s") in _BACKGROUND


def kinds_of(names: Sequence[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The kind of each class: as given, else by its name.

    Args:
        names: Of the classes to outline.
        given: Kind by class name, for some of them or none.

    Returns:
        One of `KINDS` by name, in the order of `names`.

    Raises:
        UsageError: If a class that is given is not among the names, or a kind is none.
    """
    for name, kind in (given or {}).items():
        if name not in names:
            raise UsageError(
                f"--kinds: class {name!r} is not outlined.{nearest(name, names)} Expected some of {listed(names)}."
            )
        if kind not in KINDS:
            raise UsageError(
                f"--kinds {name}={kind}: {kind!r} is no kind.{nearest(kind, KINDS)} Expected one of {', '.join(KINDS)}."
            )
    return {name: (given or {}).get(name) or _kind(name) for name in names}


def _kind(name: str) -> str:
    words = name.casefold().replace("-", " ").replace("_", " ").split()
    for kind, said in _SAID.items():
        if any(word.removesuffix("s") in said for word in (words[:1] + words[-1:])):
            return kind
    return "area"
