"""The exception tree. Every message reads: subject=value, what is wrong, where, what was expected, the next step."""

import logging
from collections.abc import Iterable

NOTE = 25
"""Level of the log between INFO and WARNING: nothing is wrong, and yet it is said without being asked for."""
logging.addLevelName(NOTE, "NOTE")


class GeosegError(Exception):
    """Anything geoseg refuses or cannot do; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(GeosegError, ValueError):
    """The call itself is wrong: an option, an unknown name, a combination that makes no sense."""

    exit_code = 2


class OutputExistsError(FileExistsError, UsageError):  # else a pickle of it is lost: OSError makes itself
    """An output is already there (or is the input) and replacing it was not asked for."""


class ConfigError(UsageError):
    """A configuration file has an unknown key or a value out of range."""


class SceneError(GeosegError, OSError):
    """A scene cannot be opened, is no raster of an accepted format, or a block of it cannot be read."""


class BandError(GeosegError, ValueError):
    """The scene's bands are not the ones the model was trained on."""


class OutputError(GeosegError, OSError):
    """An output cannot be written: folder missing or read-only, disk full, bytes differ after writing."""


class ResumeError(UsageError):
    """The unfinished run beside the output does not belong to this scene, checkpoint and settings."""


class CheckpointError(GeosegError, ValueError):
    """A checkpoint is damaged, of another program, or holds non-finite numbers."""


class LabelsError(GeosegError, ValueError):
    """Labels cannot be read, lie outside the scene, or hold nothing to learn from."""


class ShapeError(GeosegError, ValueError):
    """Arrays or tensors do not fit together."""


class DeviceError(GeosegError, RuntimeError):
    """The device or the precision asked for is not to be had on this machine."""


class WorkerError(GeosegError, RuntimeError):
    """A worker process died, or a task failed in one."""


class TrainingError(GeosegError, RuntimeError):
    """Training cannot start or cannot go on (non-finite loss, no positive pixels)."""


def listed(names: Iterable[str]) -> str:
    """Names as a list that can be typed again: one with a comma stands in quotes."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def nearest(name: str, known: Iterable[str]) -> str:
    """The question "Did you mean 'building'?" with a space before it; nothing if no known name is near."""
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
