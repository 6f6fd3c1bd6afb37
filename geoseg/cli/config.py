"""`geoseg config`: what a configuration file may say."""

import json

import click

from geoseg.cli.options import GeosegCommand, log_options


@click.command(cls=GeosegCommand)
@click.argument("what", type=click.Choice(["schema"]))
@log_options
def config(what: str) -> None:
    """Print the JSON schema of the YAML files that geoseg train --config reads.

    An editor with it completes keys and marks wrong ones as you type: with the YAML extension of VS Code, by this first
    line in the file.

    \b
    geoseg config schema > geoseg.schema.json
    # yaml-language-server: $schema=geoseg.schema.json
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    from geoseg.config.documentation import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
