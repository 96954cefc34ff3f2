"""What several settings must be together."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from archibald_rt.errors import ConfigError
from archibald_rt.settings.schema import Settings
from archibald_rt.settings.values import show_size

# As long as the output of HS256 (RFC 7518, section 3.2); shorter ones can be guessed.
SHORTEST_SECRET = 32

# What all outboxes share has to be a few events of the largest size, and at least this.
SMALLEST_TOTAL = 256 * 2**10

HOW_TO_MAKE_ONE = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'


def check_together(settings: Settings) -> None:
    """Raise ConfigError when two settings contradict each other."""
    server, internal = settings.server, settings.internal
    if server.tls_cert is not None and server.tls_key is None:
        raise ConfigError("[server] tls_cert is set without tls_key; set both or neither")
    if server.tls_key is not None and server.tls_cert is None:
        raise ConfigError("[server] tls_key is set without tls_cert; set both or neither")
    if server.unix_socket is not None and server.unix_socket == internal.unix_socket:
        raise ConfigError("[server] unix_socket and [internal] unix_socket are the same path")
    both_by_port = server.unix_socket is None and internal.unix_socket is None
    same_host = server.host.lower() == internal.host.lower()
    # Port 0 is a free one each time.
    if both_by_port and same_host and server.port == internal.port != 0:
        raise ConfigError(
            f"[server] port and [internal] port are both {server.port} on {server.host};"
            " give each listener its own"
        )
    _check_total(settings)
    _check_jwks_url(settings.auth.jwks_url)


def _check_jwks_url(url: str | None) -> None:
    # Whoever can change what comes from there can make tokens for every user.
    if url is not None and urlsplit(url).scheme == "http" and not _is_here(urlsplit(url).hostname):
        raise ConfigError(
            "[auth] jwks_url: http is only for this machine itself, such as http://127.0.0.1:8090;"
            " expected https"
        )


def _is_here(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_total(settings: Settings) -> None:
    total = settings.delivery.max_outbox_total
    least = max(SMALLEST_TOTAL, 4 * settings.events.max_event)
    if 0 < total < least:
        raise ConfigError(
            f"[delivery] max_outbox_total: {show_size(total)} is too little; give it at least"
            f" {show_size(least)} (256KiB, and four times [events] max_event), or 0 for no bound"
        )


def require_secrets(settings: Settings) -> None:
    """Raise ConfigError unless the server can be started with these secrets.

    It needs a key to verify JWTs and an emit token, and none of its secrets may be under
    32 bytes. The message says how to make one and never repeats a secret.
    """
    auth, internal = settings.auth, settings.internal
    if not (auth.jwt_secret or auth.jwt_public_key or auth.jwks_url):
        raise ConfigError(
            "[auth] jwt_secret (or ARCHIBALD_RT_AUTH_JWT_SECRET) is not set, nor are"
            f" jwt_public_key and jwks_url; use the application's, or {HOW_TO_MAKE_ONE}"
        )
    if not internal.emit_tokens:
        raise ConfigError(
            "[internal] emit_tokens (or ARCHIBALD_RT_INTERNAL_EMIT_TOKENS) is not set;"
            f" {HOW_TO_MAKE_ONE}"
        )
    webhook = settings.client_messages
    if webhook.webhook_url is not None and webhook.webhook_secret is None:
        raise ConfigError(
            "[client_messages] webhook_url is set without webhook_secret, which signs what is"
            f" posted; {HOW_TO_MAKE_ONE}"
        )
    _check_lengths("[auth] jwt_secret", auth.jwt_secret)
    _check_lengths("[internal] emit_tokens", internal.emit_tokens)
    _check_lengths("[internal] read_tokens", internal.read_tokens)
    _check_presentable("[internal] emit_tokens", internal.emit_tokens)
    _check_presentable("[internal] read_tokens", internal.read_tokens)
    if webhook.webhook_secret is not None:
        _check_lengths("[client_messages] webhook_secret", [webhook.webhook_secret])


def _check_presentable(name: str, tokens: Sequence[str]) -> None:
    # They travel in a header, where a blank ends them (RFC 6750, section 2.1).
    if any(
        not character.isprintable() or character == " " for each in tokens for character in each
    ):
        raise ConfigError(
            f"{name}: a token has a blank or a control character in it, which no request can"
            f" present; {HOW_TO_MAKE_ONE}"
        )


def _check_lengths(name: str, secrets: Sequence[str]) -> None:
    for number, secret in enumerate(secrets, 1):
        length = len(secret.encode())
        if length >= SHORTEST_SECRET:
            continue
        which = f"number {number} of {len(secrets)} has" if len(secrets) > 1 else "has"
        # A comma inside a secret takes it apart; the count alone would be a riddle.
        hint = " (a comma or a line break begins the next one)" if len(secrets) > 1 else ""
        raise ConfigError(
            f"{name}: {which} {length} bytes, at least {SHORTEST_SECRET} are needed{hint};"
            f" {HOW_TO_MAKE_ONE}"
        )
