"""Compiled: whether the kernels are, which happens at their first use on a machine and is then kept."""

import logging
from pathlib import Path
from typing import Any

from geoseg.errors import NOTE

log = logging.getLogger(__name__)


def tell_of_compiling(kernel: Any) -> None:
    """Say in one line that the first use takes longer, where a kernel has not been used before.

    Args:
        kernel: A numba function with a cache on disk.
    """
    if not is_compiled(kernel):
        log.log(NOTE, "Outlining is compiled at its first use, which takes about a minute. Later runs find it done.")


def is_compiled(kernel: Any) -> bool:
    """Whether numba has kept the machine code of a kernel; also True where that cannot be told."""
    folder = getattr(getattr(kernel, "_cache", None), "cache_path", None)
    if folder is None:
        return True
    function = kernel.py_func
    return any(Path(folder).glob(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}-*.nbi"))
