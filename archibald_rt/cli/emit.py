"""``archibald-rt emit``."""

import http.client
import json
import socket
import sys
from pathlib import Path

import click
import msgspec

from archibald_rt.cli.options import config_option, load_settings, reachable
from archibald_rt.errors import ArchibaldError, ConfigError
from archibald_rt.settings import InternalSettings

TIMEOUT = 30.0
"""How long, in seconds, the server may take to answer."""


class EmitError(ArchibaldError):
    """The server could not be reached, or refused the emission."""


# A payload such as -1 is no option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, metavar="[USER] TYPE [PAYLOAD|-]")
@click.option("--broadcast", is_flag=True, help="To everybody: leave out USER.")
@click.option("--durable/--transient", default=None, help="As against the configured classes.")
@click.option("--key", help="Makes a durable emission idempotent.")
@config_option
def emit(
    arguments: tuple[str, ...],
    *,
    broadcast: bool,
    durable: bool | None,
    key: str | None,
    config_path: Path | None,
) -> None:
    """Emit one event of TYPE to USER and print the server's answer.

    PAYLOAD is JSON, or - to read it from the standard input; null when it is absent.
    """
    words = list(arguments)
    fields: dict[str, object] = {}
    if not broadcast:
        fields["userId"] = _next(words, "USER")
    fields["type"] = _next(words, "TYPE")
    payload = _payload(words.pop(0)) if words else b"null"
    if words:
        raise click.UsageError(f"Got unexpected extra argument ({words[0]})")
    if durable is not None:
        fields["durable"] = durable
    if key is not None:
        fields["key"] = key
    # The payload is put in as it was written, so that its numbers keep their spelling.
    body = json.dumps(fields).encode()[:-1] + b',"payload":' + payload + b"}"
    path = "/internal/broadcast" if broadcast else "/internal/emit"
    click.echo(_post(load_settings(config_path).internal, path, body))


def _next(words: list[str], name: str) -> str:
    if not words:
        raise click.UsageError(f"Missing argument '{name}'")
    return words.pop(0)


def _payload(text: str) -> bytes:
    data = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        return bytes(msgspec.json.decode(data, type=msgspec.Raw))
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="PAYLOAD") from None


def _post(at: InternalSettings, path: str, body: bytes) -> str:
    if not at.emit_tokens:
        raise ConfigError("[internal] emit_tokens: none is set")
    headers = {
        b"Authorization": b"Bearer " + at.emit_tokens[0].encode(),
        b"Content-Type": b"application/json",
    }
    connection = _connection(at)
    try:
        connection.request("POST", path, body, headers)  # type: ignore[arg-type]  # bytes are fine too
        response = connection.getresponse()
        answer = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        where = at.unix_socket or f"{at.host}:{at.port}"
        raise EmitError(f"no answer from the internal listener at {where}: {error}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise EmitError(f"refused ({response.status}): {_detail(answer)}")
    return answer


def _detail(answer: str) -> str:
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, LookupError, TypeError):
        return answer[:200]


def _connection(at: InternalSettings) -> http.client.HTTPConnection:
    if at.unix_socket is not None:
        return _UnixConnection(str(at.unix_socket))
    return http.client.HTTPConnection(reachable(at.host), at.port, timeout=TIMEOUT)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
