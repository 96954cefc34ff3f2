"""A reader of Server-Sent Events, as the HTML standard (section 9.2.6) has it, step by step."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """An event as a browser would hand it on."""

    kind: str
    data: str
    last_id: str


class EventReader:
    """Interprets a stream's bytes; ``events`` has what was dispatched, to be taken out."""

    def __init__(self) -> None:
        self.events: deque[Read] = deque()
        self.comments: list[str] = []
        self.retry: int | None = None
        self.last_id = ""
        """What would be sent as `Last-Event-ID` when the connection is lost now."""
        self._rest = b""
        self._kind = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> None:
        """Read what has come. A line feed has to end each line, as this server has it."""
        assert b"\r" not in data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments.append(value)
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry":
            if value.isascii() and value.isdigit():
                self.retry = int(value)
        else:
            raise AssertionError(f"a field that readers ignore: {line}")

    def _dispatch(self) -> None:
        self.last_id = self._id
        if self._data:
            self.events.append(Read(self._kind or "message", "\n".join(self._data), self.last_id))
        self._kind, self._data = "", []
