"""Tornado as its documentation has it: ``write_message`` for each socket, tokens by PyJWT.

The secrets and how many events are kept for each user come from the environment, as for the
servers on Node; the ports are printed as a line of JSON.
"""

import asyncio
import json
import os
from collections import defaultdict, deque
from datetime import UTC, datetime
from typing import Any

import jwt
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

SECRET = os.environ["BENCH_JWT_SECRET"]
EMIT_TOKEN = f"Bearer {os.environ['BENCH_EMIT_TOKEN']}"
KEPT = int(os.environ["BENCH_BUFFER"])


class Users:
    """The sockets of each user, and the last events."""

    def __init__(self) -> None:
        self.sockets: defaultdict[str, set[WebSocketHandler]] = defaultdict(set)
        self.events: defaultdict[str, deque[tuple[str, str]]] = defaultdict(
            lambda: deque(maxlen=KEPT)
        )

    def deliver(self, emission: dict[str, Any]) -> dict[str, Any]:
        """Send an event to the user's sockets; returns what its emitter is answered."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = {"type": emission["type"], "payload": emission["payload"], "timestamp": stamp}
        text = json.dumps(event, separators=(",", ":"))
        self.events[emission["userId"]].append((stamp, text))
        sockets = self.sockets[emission["userId"]]
        for socket in sockets:
            socket.write_message(text)
        answer = {"id": None, "timestamp": stamp, "durable": False, "duplicate": False}
        return answer | {"delivered": len(sockets)}


class Device(WebSocketHandler):
    """A device's socket."""

    def initialize(self, users: Users) -> None:
        """Take the users."""
        self.users = users
        self.user = ""

    def prepare(self) -> None:
        """Check the token."""
        try:
            claims = jwt.decode(self.get_query_argument("token", ""), SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            self.set_status(401)
            self.finish()
            return
        self.user = claims["sub"]

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Replay, and be live."""
        if since := self.get_query_argument("lastEventTs", ""):
            for stamp, text in self.users.events[self.user]:
                if stamp > since:
                    self.write_message(text)
        self.users.sockets[self.user].add(self)

    def on_message(self, message: str | bytes) -> None:
        """Drop it."""

    def on_close(self) -> None:
        """Forget the socket."""
        self.users.sockets[self.user].discard(self)


class Emit(RequestHandler):
    """One event, or an array."""

    def initialize(self, users: Users) -> None:
        """Take the users."""
        self.users = users

    def post(self) -> None:
        """Deliver, then answer."""
        if self.request.headers.get("Authorization") != EMIT_TOKEN:
            self.set_status(401)
            return
        body = json.loads(self.request.body)
        if isinstance(body, list):
            self.finish({"results": [self.users.deliver(each) for each in body]})
        else:
            self.finish(self.users.deliver(body))


async def main() -> None:
    """Serve until the process is ended."""
    users = Users()
    ports = {}
    for name, path, handler in (
        ("public", "/ws", Device),
        ("internal", "/internal/emit", Emit),
    ):
        application = Application(
            [(path, handler, {"users": users})], log_function=lambda _handler: None
        )
        sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
        HTTPServer(application, max_body_size=2**30, max_buffer_size=2**30).add_sockets(sockets)
        ports[name] = sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
