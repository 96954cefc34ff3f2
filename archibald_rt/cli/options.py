"""What several commands share: finding the configuration."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from archibald_rt.settings import Settings, load

DEFAULT_CONFIG = Path("config.ini")
"""The configuration file where none is named: in the working directory, if it is there."""

_F = TypeVar("_F", bound=Callable[..., Any])


def config_option(command: _F) -> _F:
    """Add ``--config`` to a command, which gets it as ``config_path``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The configuration file [{DEFAULT_CONFIG} if it is there].",
    )(command)


def load_settings(
    config_path: Path | None, overrides: Mapping[tuple[str, str], str] | None = None
) -> Settings:
    """Load the configuration as all commands do. Raises `ConfigError`."""
    return load(
        config_path or DEFAULT_CONFIG,
        required=config_path is not None,
        environ=os.environ,
        overrides=overrides or {},
    )


def reachable(host: str) -> str:
    """Return where on this machine a server that listens at `host` can be reached."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"[{host}]" if ":" in host else host
