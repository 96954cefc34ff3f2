"""``archibald-rt serve``."""

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path

import click

from archibald_rt import logs
from archibald_rt.auth.keys import HMAC
from archibald_rt.cli.options import config_option, load_settings
from archibald_rt.cli.token import mint
from archibald_rt.server import Server
from archibald_rt.service import serve as run
from archibald_rt.settings import Settings
from archibald_rt.systemd import Notifier, inherited_sockets

DEV_USER = "demo"
"""The user that ``--dev`` makes a token for."""


@click.command()
@config_option
@click.option("--dev", is_flag=True, help="Make throw-away secrets where none are set; print them.")
def serve(config_path: Path | None, *, dev: bool) -> None:
    """Run the server until SIGTERM or SIGINT."""
    settings = load_settings(config_path)
    made = _throw_away(settings) if dev else {}
    settings = load_settings(config_path, made) if made else settings
    logs.configure(level=settings.logging.level, log_format=settings.logging.format)

    def say_how_to_try(running: Server) -> None:
        click.echo(_how_to_try(settings, running, made))

    def reread() -> Settings:
        return load_settings(config_path, made)

    manager = Notifier.from_environ(os.environ)
    with inherited_sockets(os.environ) as sockets:
        on_listening = say_how_to_try if dev else None
        sys.exit(
            asyncio.run(run(settings, sockets, manager, reread=reread, on_listening=on_listening))
        )


def _throw_away(settings: Settings) -> dict[tuple[str, str], str]:
    """Make what `settings` lack to be tried out: secrets, and pages of any origin."""
    made: dict[tuple[str, str], str] = {}
    # Where only public keys are good, a secret would be none.
    if not settings.auth.jwt_secret and any(n in HMAC for n in settings.auth.algorithms):
        made["auth", "jwt_secret"] = secrets.token_urlsafe(32)
    if not settings.internal.emit_tokens:
        made["internal", "emit_tokens"] = secrets.token_urlsafe(32)
    # Any page may try out a server of throw-away tokens, but not one with real ones.
    if made.get(("auth", "jwt_secret")) and not settings.server.allowed_origins:
        made["server", "allowed_origins"] = "*"
    return made


def _how_to_try(settings: Settings, running: Server, made: dict[tuple[str, str], str]) -> str:
    """Return lines to paste; only secrets that were made for this run are shown in them."""
    token = mint(settings, DEV_USER) if settings.auth.jwt_secret else "(one of your issuer's)"
    emission = json.dumps({"userId": DEV_USER, "type": "HELLO", "payload": {"text": "it works"}})
    secret = made.get(("auth", "jwt_secret"), "(as configured)")
    emit_token = made.get(("internal", "emit_tokens"), "(as configured)")
    return f"""
A server to try out. Secrets that are shown here are thrown away when it stops.

  jwt secret   {secret}
  emit token   {emit_token}
  user token   {token}   (user {DEV_USER})

Listen, in the console of any browser page:

  import("{running.public_url}/client.js").then(({{ connect }}) => {{
    rt = connect("{running.public_url}", {{ token: "{token}" }});
    rt.on("*", event => console.log(event.type, event.payload));
  }});

Look on, in a browser, with the emit token:

  {running.internal_url}/console

Emit, in another terminal:

  curl {running.internal_url}/internal/emit \\
    -H 'Authorization: Bearer {emit_token}' \\
    -H 'Content-Type: application/json' -d '{emission}'
"""
