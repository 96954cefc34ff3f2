"""A client of NATS that waits for its answers, for whom there is no loop or another one's.

What it reads of a stream is independent of the server's own reading.
"""

import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, NamedTuple, Self

from support import PATIENCE

_MOST = 1000


class Message(NamedTuple):
    """A message of a stream."""

    seq: int
    subject: str
    data: bytes


class _Answer(NamedTuple):
    status: str
    headers: Mapping[str, str]
    data: bytes


class Wire(AbstractContextManager["Wire"]):
    """A connection to a NATS server, for one thread."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition("/")[2].rpartition(":")
        self._socket = socket.create_connection((host, int(port)), PATIENCE.total_seconds())
        self._file = self._socket.makefile("rb")
        assert self._file.readline().startswith(b"INFO ")
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        options |= {"lang": "python", "version": "0", "protocol": 1}
        self._inbox = f"_INBOX.{id(self)}"
        self._numbers = count()
        self._send(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.* 1\r\n".encode())

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def ask(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream; returns what it answers, an error as well."""
        self._publish(f"$JS.API.{what}", b"" if body is None else json.dumps(body).encode())
        found: dict[str, Any] = json.loads(self._answer().data)
        return found

    def read(self, stream: str, *, after: int = 0) -> list[Message]:
        """Return all messages of a stream after a seq, in order."""
        found: list[Message] = []
        while True:
            start = (found[-1].seq if found else after) + 1
            body = {"seq": start, "next_by_subj": ">", "batch": _MOST}
            self._publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(body).encode())
            while "Nats-Sequence" in (answer := self._answer()).headers:
                headers = answer.headers
                seq, subject = int(headers["Nats-Sequence"]), headers["Nats-Subject"]
                found.append(Message(seq, subject, answer.data))
            assert answer.status in {"204", "404"}, answer
            if int(answer.headers.get("Nats-Num-Pending", "0")) == 0:
                return found

    def delete(self, streams: Iterable[str]) -> None:
        """Delete streams, as far as they are there."""
        for stream in streams:
            self.ask(f"STREAM.DELETE.{stream}")

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _publish(self, subject: str, data: bytes) -> None:
        reply = f"{self._inbox}.{next(self._numbers)}"
        self._send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data))

    def _answer(self) -> _Answer:
        while True:
            line = self._file.readline()
            assert line, "the NATS server has ended the connection"
            verb, *words = line.split()
            if verb in {b"MSG", b"HMSG"}:
                break
            if verb == b"PING":
                self._send(b"PONG\r\n")
            assert verb != b"-ERR", line
        whole = self._file.read(int(words[-1]))
        self._file.readline()
        if verb == b"MSG":
            return _Answer("", {}, whole)
        head, data = whole[: int(words[-2])], whole[int(words[-2]) :]
        first, *rest = head.decode().rstrip("\r\n").split("\r\n")
        headers = {name: text.strip() for name, _, text in (each.partition(":") for each in rest)}
        return _Answer(first.removeprefix("NATS/1.0").strip().partition(" ")[0], headers, data)
