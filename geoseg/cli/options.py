"""Options that commands share, and the command class that turns errors into one line and an exit code."""

import copy
import csv
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from geoseg.errors import NOTE, GeosegError

F = TypeVar("F", bound=Callable[..., Any])

READABLE = click.Path(path_type=Path)
"""A path that the command itself checks, so that all paths are refused in the same words."""


class GeosegCommand(click.Command):
    """A command whose GeosegErrors become one line on stderr and an exit code; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with logging set up; `--debug` shows tracebacks of refused input too."""
        _configure_logging(ctx)
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, _stop)
        try:
            return super().invoke(ctx)
        except GeosegError as err:
            if ctx.meta.get("geoseg.debug"):
                raise
            message = " ".join(" ".join([str(err), *getattr(err, "__notes__", ())]).split())
            click.echo(f"Error: {message}", err=True)
            ctx.exit(err.exit_code)
        except KeyboardInterrupt as stop:
            # From here on a second signal ends the process at once.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            said = "Terminated." if isinstance(stop, Terminated) else "Interrupted."
            click.echo(" ".join([said, *getattr(stop, "__notes__", ())]), err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds like Ctrl-C, so that workers are stopped and the journal is kept."""


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind. In the middle of an import, where an exception makes torch abort and nothing is to be tidied, leave."""
    terminated = number == signal.SIGTERM
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"Terminated.\n" if terminated else b"Interrupted.\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise Terminated if terminated else KeyboardInterrupt


def _configure_logging(ctx: click.Context) -> None:
    verbosity = ctx.meta.get("geoseg.verbose", 0) - ctx.meta.get("geoseg.quiet", 0)
    level = {-1: logging.ERROR, 0: NOTE, 1: logging.INFO}.get(max(verbosity, -1), logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LowerLevel("%(levelname)s: %(message)s"))
    root = logging.getLogger("geoseg")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


class _LowerLevel(logging.Formatter):
    """Levels as words of a sentence. The record itself is left alone: other handlers may see it, too."""

    def format(self, record: logging.LogRecord) -> str:
        said = copy.copy(record)
        said.levelname = said.levelname.capitalize()
        return super().format(said)


def _into_meta(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        ctx.meta[key] = value

    return callback


def log_options(command: F) -> F:
    """-q, -v and --debug: taken out of the command's own parameters."""
    command = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_into_meta("geoseg.debug"), help="Show tracebacks."
    )(command)
    command = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_into_meta("geoseg.verbose"),
        help="Say more; twice for everything.",
    )(command)
    return click.option(
        "-q",
        "--quiet",
        count=True,
        expose_value=False,
        callback=_into_meta("geoseg.quiet"),
        help="Errors only, and no progress bar.",
    )(command)


def entries(text: str) -> list[str]:
    """What stands between the commas of an option; an entry with a comma in it is quoted: '"water, ice",road'."""
    return [entry.strip() for entry in next(csv.reader([text], skipinitialspace=True), []) or [""]]


def name_list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Callback of an option that takes names: "building,road" as a tuple."""
    if value is None:
        return None
    names = tuple(entries(value))
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty entry. Expected for example building,road.")
    return names


def value_names(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[int, str]:
    """Callback of a repeatable option that names the values of a raster: "0=background,255=building" by value."""
    found: dict[int, str] = {}
    for entry in (entry for text in texts for entry in entries(text)):
        value, equals, name = (part.strip() for part in entry.partition("="))
        is_value = value.removeprefix("-").isdecimal() and int(value) not in found
        if not (equals and name and is_value) or set(name) & set("=;"):
            raise click.BadParameter(
                f"{entry!r}: expected VALUE=CLASS for each value once, such as 0=background,255=building."
            )
        found[int(value)] = name
    return found


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace outputs that exist, when the new ones are complete."
)
review_option = click.option(
    "--review",
    type=click.IntRange(min=1),
    metavar="N",
    help="Further layer with the N least certain features and cells, for verdicts that geoseg train --add learns from.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a bar and the time left on stderr: on a terminal, and without -q."""
    if not sys.stderr.isatty() or click.get_current_context().meta.get("geoseg.quiet", 0):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
