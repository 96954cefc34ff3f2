"""What the stream holds in the end, as a reader of its own finds it and as every server says."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

from cluster.nodes import STREAM, ServerNode
from faults.audit import Row, Stored
from faults.backends import Answer, BackEnd
from faults.devices import read_message
from faults.emitters import uid_of
from natscluster import PATIENCE
from support import eventually

_ALL = "all"
_AT_ONCE = 1000


async def stored_in(url: str, epoch: str) -> Stored:
    """Read all events of the stream, from the server at ``url``."""
    rows: list[Row] = []
    connection = await nats.connect(url)
    try:
        stream = connection.jetstream()
        followed = await stream.subscribe(
            f"{STREAM}.d.>",
            stream=STREAM,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
        )
        pending = (await followed.consumer_info()).num_pending
        while pending:
            message = await followed.next_msg(timeout=20)
            place = message.metadata.sequence
            pending = message.metadata.num_pending
            event = read_message(b"{" + message.data)
            payload = bytes(event.payload)
            user = _user(message.subject)
            rows.append(Row(place.stream, user, event.timestamp, payload, uid_of(payload)))
    finally:
        await connection.close()
    return Stored(epoch, rows[-1].seq if rows else 0, rows, sound=True)


async def told_by(node: ServerNode, users: Iterable[str]) -> dict[str, list[tuple[str, bytes]]]:
    """Return what a server says is in each user's stream: cursors and payloads."""
    streams: dict[str, list[tuple[str, bytes]]] = {}
    async with BackEnd(node.internal_url) as back_end:
        for user in users:
            path, after = f"/internal/users/{quote(user)}/events?limit={_AT_ONCE}", ""
            found: list[tuple[str, bytes]] = streams.setdefault(user, [])
            while after is not None:
                page = await _page(back_end, f"{path}&after={after}" if after else path)
                found += [(each["id"], _bytes(each["payload"])) for each in page["events"]]
                after = page["next"]
    return streams


async def _page(back_end: BackEnd, path: str) -> Any:
    """Return a page as soon as the server can read one."""
    found: Answer | None = None

    async def is_there() -> bool:
        nonlocal found
        found = await back_end.request("GET", path)
        assert found.status in {200, 503}, found
        return found.status == 200

    await eventually(is_there, within=PATIENCE)
    assert found is not None
    return found.body


def differing(
    stored: Stored, users: Sequence[str], told: dict[str, list[tuple[str, bytes]]]
) -> int:
    """Count the users of whose stream a server says anything else than the stream holds."""
    return sum(
        told[user]
        != [(f"{stored.epoch}:{row.seq}", _bytes_of(row.payload)) for row in stored.stream(user)]
        for user in users
    )


def _user(subject: str) -> str | None:
    """Return whose subject it is: its last token is Base64 behind a letter; None: everybody's."""
    token = subject.rpartition(".")[2]
    if token == _ALL:
        return None
    return urlsafe_b64decode(token[1:] + "=" * (-len(token[1:]) % 4)).decode()


def _bytes(payload: object) -> bytes:
    return json.dumps(payload, sort_keys=True).encode()


def _bytes_of(payload: bytes) -> bytes:
    return _bytes(json.loads(payload))
