"""What a server asks of a log that other servers append to as well, and is told by it."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from archibald_rt.errors import LogError
from archibald_rt.events import Emission
from archibald_rt.revocations import Revocation


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event whose turn it is to be dispatched here, wherever it was emitted.

    ``seq`` is a durable event's own, None for a transient one. ``after`` is the seq of the last
    durable event that goes before it. Without an ``emission`` it stands for all that there was
    up to ``seq`` and is not going to arrive: it is to be read from the log, as far as that has it.
    Without either there was nothing for anybody up to ``after``.
    """

    emission: Emission | None
    seq: int | None
    after: int


class PeerHooks(msgspec.Struct, frozen=True):
    """What is called when something has come from elsewhere.

    ``arrived``: there is something to take. ``doubted``: the log can't be reached. ``erased``:
    nothing may be kept at hand of what was dispatched. ``revoked``: tokens are refused and devices
    cut off. ``asked`` returns what another server is answered, None for nothing at all; ``watched``
    says whether somebody watches at another, and ``shared`` has what is to be seen here.
    ``broken``: only a restart helps.
    """

    arrived: Callable[[], None]
    doubted: Callable[[LogError], None]
    erased: Callable[[], None]
    revoked: Callable[[Revocation], None]
    asked: Callable[[bytes], bytes | None]
    watched: Callable[[bool], None]
    shared: Callable[[bytes], None]
    broken: Callable[[BaseException], None]


class Answers(msgspec.Struct, frozen=True):
    """What other servers answered, and the names of those that did not.

    One that is ``silent`` may serve devices, or might until it was given up; one that is ``gone``
    had not been heard of for so long by then that it serves nobody.
    """

    given: Sequence[bytes]
    silent: Sequence[str]
    gone: Sequence[str]


class Peers(Protocol):
    """The other servers on the same log.

    Every durable event arrives, this server's own as well, by seq; and the transient ones of
    the others, each in its place. They are taken by one task at a time.
    """

    def attach(self, hooks: PeerHooks) -> None:
        """Call these from now on; to be called once, before anything is taken."""

    @property
    def waiting(self) -> bool:
        """Whether something has arrived that was not taken."""

    @property
    def lag(self) -> int:
        """How many durable events are committed and were not taken, as far as is known."""

    @property
    def late(self) -> float:
        """For how many seconds, at least, the first of them has waited."""

    @property
    def fault(self) -> LogError | None:
        """Why what is committed does not arrive, or is late; None where it comes in time."""

    @property
    def dropped(self) -> int:
        """How many transient events of other servers were given up, since too many waited."""

    def take(self) -> Arrival | None:
        """Take what arrived first; None if nothing waits."""

    def through(self, seq: int) -> AsyncIterator[Arrival]:
        """Take what arrives up to a durable event, waiting for it.

        Ends behind that event, or what stands for it; or without it if it doesn't arrive for so
        long that it is better taken when it does.
        """

    def passed(self, seq: int) -> bool:
        """Whether all that arrives up to a seq was taken, and what did not will never come."""

    async def has(self, seq: int) -> bool:
        """Whether the log is as far as a seq, which need not have arrived here.

        Raises `LogUnavailableError`.
        """

    def defer(self, emission: Emission, after: int) -> None:
        """Have a transient emission of this server arrive when the event ``after`` has."""

    async def tell(self, emission: Emission, after: int) -> None:
        """Have a transient emission arrive at the others; it is lost where they can't be reached.

        ``after`` is what was dispatched last here.
        """

    @property
    def name(self) -> str:
        """What this server is called among them."""

    @property
    def current(self) -> bool:
        """Whether this server may serve by what it knows of revocations.

        If not it hands nothing to any device, and nothing arrives, until it knows more.
        """

    async def meet(self) -> None:
        """Wait until all are known that serve by now; else one that begins may not be yet.

        Raises `LogUnavailableError` if that can't be told. After a revocation they are known.
        """

    async def ask(self, question: bytes, within: float | None) -> Answers:
        """Ask the others, and wait for so many seconds at most for those that may be serving.

        None is for as long as any of those that have not answered may serve without having heard of
        what is revoked by now.
        """

    def watch(self, *, watched: bool) -> None:
        """Let the others know whether somebody watches here."""

    async def share(self, data: bytes) -> None:
        """Have something seen at the others; it is lost where they can't be reached."""
