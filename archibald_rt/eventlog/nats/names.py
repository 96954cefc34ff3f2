"""The subjects of a log's stream, and what they stand for. No I/O.

Of the stream ``RT``::

    RT.d.<partition>.u.<user>          a user's durable events
    RT.d.all                           the durable broadcasts
    RT.k.<partition>.<user>.<key>      the keys of events: each lies just before its event
    RT.k.fence.<publish>               what keeps a publish of unknown outcome from being stored
    RT.p                               what probes commit
    RT.t.<partition>.u.<user>          transient events, never stored
    RT.t.all                           transient broadcasts
    RT.c.ask                           what servers ask each other
    RT.c.watched                       what those are told who watch at other servers
    RT.c.import                        whoever imports into the stream answers there

The partition is there for nodes that will follow a part of the users.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from zlib import crc32

PARTITIONS = 64
"""Over how many partitions the users are spread, for good."""


def token(text: str) -> str:
    """Write a text as one token of a subject.

    Never as it is: the server stores an event under a user called ``>`` without complaint.
    """
    return "u" + urlsafe_b64encode(text.encode()).decode().rstrip("=")


def text_of(token: str) -> str:
    """Return the text that was written as a token."""
    encoded = token[1:]
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


class Names:
    """The subjects of one stream."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.events = f"{stream}.d.>"
        self.keys = f"{stream}.k.>"
        self.probe = f"{stream}.p"
        self.transients = f"{stream}.t.>"
        self.ask = f"{stream}.c.ask"
        self.watched = f"{stream}.c.watched"
        self.importing = f"{stream}.c.import"
        self.all = f"{stream}.>"

    @property
    def followed(self) -> list[str]:
        """The subjects of all that is stored but for keys, which events speak for."""
        return [self.events, self.probe, self.fence("*")]

    def fence(self, publish: str) -> str:
        """Return the subject that says of a publish that it is not to be stored any more."""
        return f"{self.stream}.k.fence.{publish}"

    @property
    def stored(self) -> list[str]:
        """The subjects that are stored."""
        return [self.events, self.keys, self.probe]

    def durable(self, user: str | None) -> str:
        """Return the subject of a user's durable events, or (None) of the broadcasts'."""
        return f"{self.stream}.d.{_rest(user)}"

    def transient(self, user: str | None) -> str:
        """Return the subject of a user's transient events, or (None) of the broadcasts'."""
        return f"{self.stream}.t.{_rest(user)}"

    def key(self, user: str | None, key: str) -> str:
        """Return the subject of a key."""
        return self.key_of(user, key.encode())

    def key_of(self, user: str | None, key: bytes) -> str:
        """Return the subject of a key, which is given in UTF-8."""
        # A key's digest, since a subject may not be as long as a key.
        return self.keys_of(user)[:-1] + hashlib.sha256(key).hexdigest()

    def keys_of(self, user: str | None) -> str:
        """Return the subjects of all keys of a user."""
        if user is None:
            return f"{self.stream}.k.all.all.*"
        return f"{self.stream}.k.{_partition(user)}.{token(user)}.*"

    def user(self, subject: str) -> str | None:
        """Return whose events have a subject; None for everybody's."""
        last = subject.rpartition(".")[2]
        return None if last == "all" else text_of(last)

    def is_event(self, subject: str) -> bool:
        """Whether a subject is a user's, or the broadcasts'."""
        try:
            return self.durable(self.user(subject)) == subject
        except ValueError:
            return False

    def is_key(self, subject: str) -> bool:
        """Whether a subject is one of keys."""
        return subject.startswith(self.keys[:-1]) and not self.is_fence(subject)

    def is_fence(self, subject: str) -> bool:
        """Whether a subject is that of a publish which is not to be stored any more."""
        return subject.startswith(self.fence(""))


def _rest(user: str | None) -> str:
    return "all" if user is None else f"{_partition(user)}.u.{token(user)}"


def _partition(user: str) -> int:
    return crc32(user.encode()) % PARTITIONS
