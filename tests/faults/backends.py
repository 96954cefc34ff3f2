"""Back ends on plain sockets, and the account of what they were answered."""

import asyncio
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from faults.devices import Place, seq_of
from support import EMIT_TOKEN

_encode, _decode = msgspec.json.encode, msgspec.json.decode

PAUSE = 0.02
"""For how many seconds a back end waits before it tries again."""


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: Any


class BackEnd:
    """A connection to the internal listener that is kept: one request after the other.

    What breaks it is raised as `OSError` or `EOFError`; the next request connects anew.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Send a request and return the answer."""
        address = urlsplit(self.url)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {EMIT_TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(address.hostname, address.port)
            reader, writer = self._streams
            writer.write(head.encode() + body)
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): text for name, _, text in (x.partition(": ") for x in rest)}
            answer = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(first.split()[1]), headers, _decode(answer) if answer else None)

    async def get(self, path: str) -> Any:
        """Return what is at a path of the internal listener."""
        answer = await self.request("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def emit(self, emissions: object, path: str = "emit") -> list[dict[str, Any]]:
        """Emit what is to be accepted at the first try; returns the results, one or many."""
        answer = await self.request("POST", f"/internal/{path}", _encode(emissions))
        assert answer.status == 200, answer
        results: list[dict[str, Any]] = answer.body.get("results", [answer.body])
        return results

    def close(self) -> None:
        """End the connection. Doing it again does nothing."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.close()


class Account:
    """What was answered as durable: by user, the places in the log."""

    def __init__(self) -> None:
        self.answered: dict[str, list[int]] = {}
        self.count = 0

    def note(self, users: Iterable[str], results: Sequence[Mapping[str, Any]]) -> None:
        """Take down the answer to emissions, one for each of these users."""
        for user, result in zip(users, results, strict=True):
            if result["durable"]:
                self.answered.setdefault(user, []).append(seq_of(result["id"]))
                self.count += 1

    def lost(self, log: Path, places: Collection[Place]) -> int:
        """Count what was answered and is not in the log, and what is there and a device has not.

        Only what lies after the place where a device began counts for it, which is the
        beginning of the log. Fails if a device got anything twice, out of order, or that is
        not its user's.
        """
        stored = stored_in(log)
        lost = sum(
            len(set(seqs).difference(stored.get(user, ()))) for user, seqs in self.answered.items()
        )
        lost += sum(len(set(stored.get(place.user, ())).difference(place.seqs)) for place in places)
        for place in places:
            assert not place.faults, (place.user, place.faults[:3])
            if not lost:
                assert place.seqs == stored.get(place.user, []), place.user
        return lost


def stored_in(log: Path) -> dict[str, list[int]]:
    """Return the log's events by user, broadcasts left out, as an independent reader finds them."""
    connection = sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)
    streams: dict[str, list[int]] = {}
    for seq, user in connection.execute("SELECT seq, user FROM events ORDER BY seq"):
        streams.setdefault(user.decode(), []).append(seq)
    connection.close()
    return streams
