"""``archibald-rt config check`` and ``show``."""

from pathlib import Path

import click

from archibald_rt import server
from archibald_rt.cli.options import config_option, load_settings
from archibald_rt.settings import describe


@click.group()
def config() -> None:
    """Look at the configuration that a start would use."""


@config.command()
@config_option
def check(config_path: Path | None) -> None:
    """Say whether the server would start with it."""
    settings = load_settings(config_path)
    server.check(settings)
    click.echo("the configuration is good")


@config.command()
@config_option
def show(config_path: Path | None) -> None:
    """Print every key and its value as one would write them; secrets are masked."""
    section = ""
    for row in describe(load_settings(config_path)):
        if row.section != section:
            click.echo(f"{chr(10) if section else ''}[{row.section}]")
            section = row.section
        note = "  # default" if row.is_default else ""
        click.echo(f"{row.key} = {row.value}{note}".replace(" = \n", " =\n"))
