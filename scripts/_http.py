"""What the scripts share: the internal listener's address, its token, and one POST to it."""

import http.client
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import click

# Seconds without an answer after which an emit's outcome is unknown.
_TIMEOUT = 30.0


class RefusedError(click.ClickException):
    """The server refused, or didn't answer as it should: one line on stderr, exit 1.

    ``field`` is what the server named as wrong, or empty.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(_one_line(message))
        self.field = field


class Emitter:
    """The internal listener at ``url``, for one emit token.

    Raises click.UsageError for an address or a token that can't be one. Each post has a
    connection of its own: one kept open could be closed by the server between two, and an
    emission that may have arrived can't just be sent again.
    """

    def __init__(self, url: str, token: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise click.UsageError(f"--url: {error}") from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise click.UsageError("--url must be http://host:port or https://host:port")
        if not token:
            raise click.UsageError("no emit token: set ARCHIBALD_RT_EMIT_TOKEN or give --token")
        if not (token.isascii() and token.isprintable()):
            # Without its text: tokens end in no output.
            raise click.UsageError("the emit token holds characters that no HTTP header can")
        self._secure = parts.scheme == "https"
        self._host = host
        self._port = port
        self._prefix = parts.path.rstrip("/")
        self._url = f"{parts.scheme}://{parts.netloc}{self._prefix}"
        self._token = token

    def emit(self, emission: dict[str, Any]) -> Any:
        """Post one emission; gives the server's answer or raises RefusedError."""
        return self.post("/internal/emit", json.dumps(emission).encode(), "application/json")

    def post(self, path: str, body: bytes, content_type: str) -> Any:
        """Post ``body``; gives the server's answer, decoded, or raises RefusedError."""
        try:
            status, reason, text = self._exchange(path, body, content_type)
        except TimeoutError as error:
            raise RefusedError(
                f"{self._url} didn't answer in {_TIMEOUT:.0f} s: the outcome is unknown"
            ) from error
        except (OSError, UnicodeError) as error:
            raise RefusedError(f"{self._url} can't be reached: {error}") from error
        except http.client.HTTPException as error:
            raise RefusedError(f"{self._url} doesn't answer as HTTP does: {error!r}") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status == http.client.OK and isinstance(answer, dict):
            return answer
        raise _refusal(status, reason, answer)

    def _exchange(self, path: str, body: bytes, content_type: str) -> tuple[int, str, bytes]:
        # Straight to the listener: the token must reach no proxy, and follow no redirect.
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        with closing(kind(self._host, self._port, timeout=_TIMEOUT)) as connection:
            # A server that refuses a body half way has answered before it stopped reading.
            with suppress(BrokenPipeError):
                connection.request("POST", self._prefix + path, body, headers)
            response = connection.getresponse()
            return response.status, response.reason, response.read()


def _refusal(status: int, reason: str, answer: Any) -> RefusedError:
    """Say a problem document (RFC 9457) in one line, or what else there is to say."""
    problem = answer if isinstance(answer, dict) else {}
    line = f"{status} {problem.get('title') or reason}"
    if problem.get("detail"):
        line += f": {problem['detail']}"
    field = str(problem.get("field") or "")
    if field:
        line += f" ({field})"
    return RefusedError(line, field)


def _one_line(text: str) -> str:
    # A server's words go to a terminal: line breaks and control characters stay behind.
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--url`` and ``--token``, also from the environment, to a command."""
    url = click.option(
        "--url",
        envvar="ARCHIBALD_RT_URL",
        default="http://127.0.0.1:8081",
        show_default=True,
        show_envvar=True,
        help="Address of the internal listener.",
    )
    token = click.option(
        "--token",
        envvar="ARCHIBALD_RT_EMIT_TOKEN",
        default="",
        show_envvar=True,
        help="Emit token; a process list shows an option, but not the environment.",
    )
    return url(token(command))


def run(command: click.Command) -> None:
    """Run a script's command; what the system refuses, such as a full disk, is one line too."""
    try:
        command()
    except OSError as error:
        click.echo(f"Error: {_one_line(str(error))}", err=True)
        # What stdout still holds would be tried again at the exit, and fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
