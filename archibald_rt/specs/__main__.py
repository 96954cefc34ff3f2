"""Write ``openapi.json`` and ``asyncapi.json`` into a folder: ``scripts/specs`` calls this."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from archibald_rt.specs.asyncapi import asyncapi
from archibald_rt.specs.openapi import openapi


def documents() -> dict[str, bytes]:
    """Return the documents as they are kept, by the names of their files."""
    return {"openapi.json": _pretty(openapi()), "asyncapi.json": _pretty(asyncapi())}


def _pretty(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


if __name__ == "__main__":
    for name, text in documents().items():
        Path(sys.argv[1], name).write_bytes(text)
