#!/usr/bin/env python3
"""Emit one event through the internal listener and print the server's answer."""

import json
import sys
from typing import Any, NoReturn

import click

from _http import Emitter, connection_options, run


@click.command(help=__doc__)
@connection_options
@click.option("--broadcast", is_flag=True, help="To everybody: no USER is given.")
@click.option(
    "--durable/--transient",
    default=None,
    help="Store it for replay, or not; the server's configuration decides when neither is given.",
)
@click.option("--key", help="Durable only: the same key again stores and delivers nothing more.")
@click.option("--conflate", help="Transient only: a newer one replaces an older one still held.")
@click.option("--timestamp", help="RFC 3339 with a zone; the server's clock when not given.")
@click.argument("words", nargs=-1, metavar="[USER] TYPE [PAYLOAD|-]")
def main(
    url: str,
    token: str,
    words: tuple[str, ...],
    *,
    broadcast: bool,
    durable: bool | None,
    key: str | None,
    conflate: str | None,
    timestamp: str | None,
) -> None:
    """Emit one event."""
    names = ["type"] if broadcast else ["userId", "type"]
    if not len(names) <= len(words) <= len(names) + 1:
        raise click.UsageError(
            "with --broadcast: TYPE [PAYLOAD|-]" if broadcast else "USER TYPE [PAYLOAD|-] expected"
        )
    members: dict[str, Any] = dict(zip(names, words, strict=False))
    optional = {"durable": durable, "key": key, "conflate": conflate, "timestamp": timestamp}
    members |= {name: value for name, value in optional.items() if value is not None}
    body = json.dumps(members)
    if len(words) > len(names):
        # Spliced in as text: decoding and encoding it again would respell its numbers.
        body = f'{body[:-1]}, "payload": {_payload(words[-1])}}}'
    path = "/internal/broadcast" if broadcast else "/internal/emit"
    answer = Emitter(url, token).post(path, body.encode(), "application/json")
    click.echo(json.dumps(answer))


def _payload(text: str) -> str:
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode()
        # What counts is only that it is JSON; numbers stay text, whatever their size.
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_no_constant)
        text.encode()
    except RecursionError as error:
        raise click.UsageError("PAYLOAD is nested too deeply") from error
    except ValueError as error:
        raise click.UsageError(f"PAYLOAD is no JSON: {error}") from error
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


if __name__ == "__main__":
    run(main)
