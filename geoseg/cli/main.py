"""The `geoseg` group. Commands are imported when they are asked for, so that `--help` stays instant."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from geoseg.errors import nearest

COMMANDS = {
    "predict": "Class raster, and polygons, from a scene.",
    "vectorize": "Polygons from a class raster.",
    "tile": "Labelled tiles from scenes and a vector layer or a label raster.",
    "train": "Train a model from labelled tiles or a scene with a vector layer.",
    "evaluate": "Score a prediction against a reference.",
    "compare": "Runs side by side: scores with intervals, speed, size.",
    "models": "What is built in, and what a checkpoint says of itself.",
    "losses": "Which loss when: formula, paper, options.",
    "config": "What a configuration file may say.",
    "demo": "A synthetic town, end to end.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and help line and imports `geoseg.cli.<name>` only to run one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the pipeline, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"geoseg.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown command is answered with the nearest name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}.{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As click does, but Ctrl-C has its exit code from the start."""
        with _interrupted():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but wrong usage is told in one line, and Ctrl-C has its exit code."""
        with _interrupted():
            try:
                return super().invoke(ctx)
            except click.UsageError as err:
                raise WrongUsage(err) from err

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@contextmanager
def _interrupted() -> Iterator[None]:
    """Where click would say "Aborted!" and exit with 1."""
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as err:
        # While a class is made, which imports do, Python 3.11 wraps what comes up into a RuntimeError.
        if not isinstance(err, KeyboardInterrupt) and not isinstance(err.__cause__, KeyboardInterrupt):
            raise
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(130) from None


class WrongUsage(click.ClickException):
    """click's own refusals, without the lines of usage above them."""

    exit_code = 2

    def __init__(self, err: click.UsageError) -> None:
        message = " ".join(err.format_message().split())
        hint = f" See '{err.ctx.command_path} --help'." if err.ctx else ""
        super().__init__(message + hint)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"geoseg {version('geoseg')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
def geoseg() -> None:
    """Buildings and roads from aerial imagery.

    Results (paths, tables, JSON) go to stdout; the log and the progress bar to stderr.
    """


def main(argv: list[str] | None = None) -> Any:
    """Entry point of the `geoseg` program."""
    sys.exit(geoseg(argv, prog_name="geoseg"))


if __name__ == "__main__":
    main()
