"""A consumer at the server: what it is asked for, and what its messages say of their place."""

from collections.abc import Sequence
from typing import Any

import msgspec

from archibald_rt.errors import LogBrokenError
from archibald_rt.eventlog.nats.jet import Jet

HEARTBEAT = 0.5
"""Every how many seconds the server says that it is there, where nothing else comes."""

MISSED = 4
"""How many heartbeats may be missed before a consumer is made anew.

It lives on one NATS server and dies with that. Until it is made anew what is emitted here is not
answered.
"""

LISTENERLESS = 5.0
"""After how many seconds without anybody who listens the server deletes a consumer."""

_SHORT = 9
_NANOSECONDS = 1_000_000_000


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a message stands.

    ``seq`` in the stream, ``place`` (from 1) among those of its ``consumer``, which has
    ``pending`` to come behind it.
    """

    consumer: str
    seq: int
    place: int
    pending: int


def place_of(reply: str) -> Place:
    """Read a message's place from where its acknowledgement would go; raises `ValueError`."""
    # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<place>.<time>.<pending>; or with a domain
    # and an account before the stream, and more behind.
    parts = reply.split(".")
    begin = 3 if len(parts) == _SHORT else 5
    consumer, _, seq, place, _, pending = parts[begin : begin + 6]
    return Place(consumer, int(seq), int(place), int(pending))


async def create(
    jet: Jet, stream: str, name: str, *, inbox: str, subjects: Sequence[str], after: int
) -> int:
    """Have the messages of some subjects after a seq sent; returns how many there are by now.

    The consumer is gone some seconds after whoever listens is. Raises `LogUnavailableError`, and
    `LogBrokenError` without the stream.
    """
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "filter_subjects": list(subjects),
        "ack_policy": "none",
        "max_deliver": 1,
        "flow_control": True,
        "idle_heartbeat": int(HEARTBEAT * _NANOSECONDS),
        "inactive_threshold": int(LISTENERLESS * _NANOSECONDS),
        "mem_storage": True,
        "num_replicas": 1,
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    made = await jet.ask(f"CONSUMER.CREATE.{stream}.{name}", body)
    if made is None:
        raise LogBrokenError(f"the stream {stream} was deleted")
    pending: int = made["num_pending"]
    return pending
