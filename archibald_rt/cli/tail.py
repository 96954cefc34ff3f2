"""``archibald-rt tail``."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import click

from archibald_rt import logs
from archibald_rt.cli.options import config_option, load_settings, reachable
from archibald_rt.cli.token import mint
from archibald_rt.client import Client, Gap, ReceivedEvent
from archibald_rt.errors import ConfigError
from archibald_rt.settings import Settings

TOKEN_EXPIRES = 3600.0
"""For how many seconds the token of one connection is good; each connection has its own."""


@click.command()
@click.argument("user")
@click.option(
    "--after",
    metavar="CURSOR",
    help="Begin after this cursor, or with `earliest` at all that is retained [live only].",
)
@config_option
def tail(user: str, after: str | None, config_path: Path | None) -> None:
    """Follow USER's stream, an event a line; resumes by itself until interrupted."""
    settings = load_settings(config_path)
    # The client says there when it reconnects, and why.
    logs.configure(level="info", log_format="text")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(settings, user, after))


async def _follow(settings: Settings, user: str, after: str | None) -> None:
    def fresh_token() -> str:
        return mint(settings, user, expires=TOKEN_EXPIRES)

    context = _trusting(settings.server.tls_cert)
    client = Client(_public_url(settings), fresh_token, cursor=after, ssl_context=context)
    async with client:
        async for item in client:
            if isinstance(item, ReceivedEvent):
                click.echo(item.raw)
            elif isinstance(item, Gap):
                lost = (
                    f"up to {item.missing_through}" if item.missing_through else "an unknown part"
                )
                click.echo(f"gap ({item.reason}): {lost} is missing", err=True)


def _public_url(settings: Settings) -> str:
    at = settings.server
    if at.unix_socket is not None:
        raise ConfigError("[server] unix_socket: tail connects by address, not by path")
    scheme = "http" if at.tls_cert is None else "https"
    return f"{scheme}://{reachable(at.host)}:{at.port}"


def _trusting(certificate: Path | None) -> ssl.SSLContext | None:
    """Return what accepts the server's own certificate, and no other, by whatever name."""
    if certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=certificate)
    except (OSError, ValueError) as error:
        raise ConfigError(f"[server] tls_cert: {certificate} can't be used: {error}") from None
    # It is connected to by its address; who has the certificate's key is the server.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
