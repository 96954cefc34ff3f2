"""The stream and the bucket of a log: made where there are none, checked where there are."""

from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

import msgspec

from archibald_rt import timestamps
from archibald_rt.errors import LogOpenError, LogUnavailableError
from archibald_rt.eventlog.base import Retention
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names

OLDEST = (2, 12)
"""The oldest server that has atomic batches."""

EPOCH = "archibald_rt.epoch"
"""Where the epoch is in a stream's metadata. Without it a stream is served by nobody."""

IMPORTING = "archibald_rt.importing"
"""Where the metadata of a stream that is imported into say by which import."""

_NANOSECONDS = 1_000_000
_UNLIMITED = -1


class Opened(msgspec.Struct, frozen=True):
    """A stream as it was found.

    ``cap`` is how many events of a user it keeps (0: all), ``differing`` what an operator should
    know of: limits that are not those that are configured.
    """

    epoch: str
    last: int
    last_ms: int
    cap: int
    replicas: int
    differing: Sequence[str]


def require_version(major: int, minor: int) -> None:
    """Raise `LogOpenError` for a server that is too old; an older one ignores what it is asked."""
    if (major, minor) < OLDEST:
        raise LogOpenError(
            f"[nats] servers: the server is NATS {major}.{minor}; expected"
            f" {'.'.join(map(str, OLDEST))} or newer"
        )


async def open_stream(jet: Jet, names: Names, retention: Retention, *, replicas: int) -> Opened:
    """Find the stream, or make it. Raises `LogOpenError`."""
    wanted = config_of(names, retention, replicas)
    found = await find_stream(jet, names.stream)
    if found is None:
        made = {**wanted, "metadata": {EPOCH: new_epoch()}}
        try:
            await jet.ask(f"STREAM.CREATE.{names.stream}", made)
        except LogUnavailableError as error:
            # Another server may have made it just now.
            if await find_stream(jet, names.stream) is None:
                raise LogOpenError(f"[nats] stream {names.stream}: {error}") from None
        found = await find_stream(jet, names.stream)
    if found is None:
        raise LogOpenError(f"[nats] stream {names.stream}: it was deleted while it was opened")
    return _checked(names, found, wanted)


async def existing_stream(jet: Jet, names: Names) -> Opened:
    """Find the stream, whatever its limits are. Raises `LogOpenError`, also without one."""
    found = await find_stream(jet, names.stream)
    if found is None:
        raise LogOpenError(f"[nats] stream {names.stream}: there is no such stream")
    return _checked(names, found, config_of(names, Retention(), found["config"]["num_replicas"]))


def require_ours(stream: str, metadata: Mapping[str, str]) -> None:
    """Raise `LogOpenError` for a stream whose metadata are not those of a log."""
    if not metadata.keys() & {EPOCH, IMPORTING}:
        raise LogOpenError(
            f"[nats] stream {stream}: it is not one of archibald_rt; choose another name"
        )


def new_epoch() -> str:
    """Make a name for a log, not to be guessed or met twice."""
    return token_hex(8)


def _checked(names: Names, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Opened:
    config, state = found["config"], found["state"]
    metadata = config.get("metadata") or {}
    require_ours(names.stream, metadata)
    epoch = metadata.get(EPOCH)
    if epoch is None:
        raise LogOpenError(
            f"[nats] stream {names.stream}: an import into it is under way, or was broken off"
            " and has to be begun again"
        )
    for key in ("subjects", "retention", "discard", "storage", "allow_direct", "allow_atomic"):
        if config.get(key) != wanted[key]:
            raise LogOpenError(
                f"[nats] stream {names.stream}: its {key} is {config.get(key)}; expected"
                f" {wanted[key]}"
            )
    per_subject = max(0, config.get("max_msgs_per_subject", _UNLIMITED))
    if per_subject == 1:
        raise LogOpenError(
            f"[nats] stream {names.stream}: its max_msgs_per_subject is 1; expected one more"
            " than events are to be kept"
        )
    return Opened(
        epoch=epoch,
        last=state["last_seq"],
        last_ms=milliseconds(state["last_ts"]) if state["last_seq"] else 0,
        cap=max(0, per_subject - 1),
        replicas=config["num_replicas"],
        differing=_differing(config, wanted),
    )


async def open_bucket(jet: Jet, bucket: str, subjects: str, *, replicas: int) -> None:
    """Find the key-value bucket, or make it. Raises `LogOpenError`."""
    if await find_stream(jet, bucket) is not None:
        return
    config = {
        "name": bucket,
        "subjects": [subjects],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }
    try:
        await jet.ask(f"STREAM.CREATE.{bucket}", config)
    except LogUnavailableError as error:
        if await find_stream(jet, bucket) is None:
            raise LogOpenError(f"[nats] bucket {bucket}: {error}") from None


def milliseconds(moment: str) -> int:
    """Return a moment that the server wrote, in milliseconds since 1970."""
    return timestamps.parse(moment) // _NANOSECONDS


def config_of(names: Names, retention: Retention, replicas: int) -> dict[str, Any]:
    """Return what JetStream is told of a stream when it is made."""
    cap = retention.max_events_per_user
    return {
        "name": names.stream,
        "subjects": names.stored,
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": replicas,
        "max_age": retention.max_age_ms * _NANOSECONDS,
        "max_bytes": retention.max_size or _UNLIMITED,
        # One more than are kept says that there was one too many.
        "max_msgs_per_subject": cap + 1 if cap else _UNLIMITED,
        "allow_direct": True,
        "allow_atomic": True,
    }


def _differing(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    keys = ("num_replicas", "max_age", "max_bytes", "max_msgs_per_subject")
    return [
        f"{key} is {config.get(key)}, configured {wanted[key]}"
        for key in keys
        if config.get(key) != wanted[key]
    ]


async def find_stream(jet: Jet, stream: str) -> dict[str, Any] | None:
    """Return what JetStream says of a stream, None without one. Raises `LogOpenError`."""
    try:
        return await jet.ask(f"STREAM.INFO.{stream}")
    except LogUnavailableError as error:
        raise LogOpenError(f"[nats] servers: {error}") from None
