"""``archibald-rt token``."""

import time
from pathlib import Path
from typing import Any

import click
import jwt

from archibald_rt.cli.options import config_option, load_settings
from archibald_rt.errors import ConfigError
from archibald_rt.events import user_id_fault
from archibald_rt.settings import Settings
from archibald_rt.settings.values import parse_duration

DEFAULT_EXPIRES = 12 * 3600.0
"""After how many seconds a token expires where nothing else is said."""


@click.command()
@click.argument("user")
@click.option("--role", help="The role to put into it, such as admin.")
@click.option("--expires", default="12h", show_default=True, help="30s, 5m, 12h, 7d; 0 for never.")
@config_option
def token(user: str, role: str | None, expires: str, config_path: Path | None) -> None:
    """Print a token for USER, signed with the first configured secret."""
    try:
        seconds = parse_duration(expires)
    except ValueError:
        raise click.BadParameter(
            f"{expires!r} is no duration; expected one such as 30s, 5m, 12h, 7d, or 0",
            param_hint="--expires",
        ) from None
    if (fault := user_id_fault(user)) is not None:
        raise click.BadParameter(fault, param_hint="USER")
    click.echo(mint(load_settings(config_path), user, role=role, expires=seconds))


def mint(
    settings: Settings, user: str, *, role: str | None = None, expires: float = DEFAULT_EXPIRES
) -> str:
    """Return a token for a user as these settings accept it.

    ``expires`` is in seconds from now, 0 for never. Raises `ConfigError` without a secret.
    """
    auth = settings.auth
    algorithm = next((name for name in auth.algorithms if name.startswith("HS")), None)
    if not auth.jwt_secret or algorithm is None:
        raise ConfigError("[auth] jwt_secret: needed to sign a token, together with HS256 or such")
    now = int(time.time())
    claims: dict[str, Any] = {auth.user_claims[0]: user, "iat": now}
    if expires:
        claims["exp"] = now + int(expires)
    if role is not None:
        claims[auth.role_claim] = role
    if auth.issuer is not None:
        claims["iss"] = auth.issuer
    if auth.audience is not None:
        claims["aud"] = auth.audience
    return jwt.encode(claims, auth.jwt_secret[0], algorithm=algorithm)
