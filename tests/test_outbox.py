"""What a device is owed: ``outbox``, over real sockets."""

import asyncio
import random
import socket
import ssl
import struct
import sys
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from archibald_rt.budget import Budget
from archibald_rt.outbox import (
    NOTSENT_LOWAT,
    Outbox,
    Progress,
    Tick,
    queued_bytes,
    seconds_since_received,
    tune,
)
from issuer import certificate_with_key
from support import PATIENCE, eventually

MIB = 1024 * 1024
MOST_AT_ONCE = MIB
"""No kernel takes more than this at a time once it was full."""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Make a pair that shows each write as the packet it was."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class End:
    """The device's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self.sock = sock

    async def read(self, most: int = MIB) -> bytes:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(self.sock_recv(loop, most), PATIENCE.total_seconds())

    async def sock_recv(self, loop: asyncio.AbstractEventLoop, most: int) -> bytes:
        return await loop.sock_recv(self.sock, most)

    async def exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = await self.read(count - len(parts))
            assert part, "closed too early"
            parts += part
        return bytes(parts)

    def reset(self) -> None:
        """End the connection as a crash does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Ends:
    """A connection with an outbox at the server's end."""

    def __init__(
        self,
        pair: tuple[socket.socket, socket.socket],
        limit: int,
        tick: Tick | None,
        budget: Budget | None,
    ) -> None:
        self.socket = pair[0]
        self.socket.settimeout(0)
        self.ended = False
        self.budget = budget or Budget(limit=0, largest=0)
        self.outbox = Outbox(self.socket, tick or Tick(), self.budget, limit=limit, lost=self.end)
        self.device = End(pair[1])

    def end(self) -> None:
        """End the connection, as the owner of an outbox does."""
        self.ended = True
        self.outbox.close()
        self.socket.close()

    async def fill(self, total: int = 8 * MIB) -> bytes:
        """Put in more than the kernel takes, and wait until it takes no more."""
        data = numbered(total)
        self.outbox.push(data)
        await still(lambda: self.outbox.taken)
        assert 0 < self.outbox.taken < total
        return data


def numbered(total: int) -> bytes:
    """Return bytes among which every place is another."""
    return array("I", range(total // 4)).tobytes()


async def still(read: Callable[[], object]) -> None:
    """Wait until a value has not changed for a while.

    A while is a number of looks, between which the loop turned: time alone also passes where the
    machine gave the whole process none.
    """
    last, looks = read(), 0

    def unchanged() -> bool:
        nonlocal last, looks
        looks = looks + 1 if (now := read()) == last else 0
        last = now
        return looks > 10

    await eventually(unchanged)


@asynccontextmanager
async def ends(
    make: Callable[[], tuple[socket.socket, socket.socket]] = unix_pair,
    *,
    limit: int = 0,
    tick: Tick | None = None,
    budget: Budget | None = None,
) -> AsyncIterator[Ends]:
    made = Ends(make(), limit, tick, budget)
    try:
        yield made
    finally:
        made.end()
        made.device.sock.close()


async def turn() -> None:
    """Let the loop turn once."""
    await asyncio.sleep(0)


both = pytest.mark.parametrize("make", [tcp_pair, unix_pair])


@pytest.mark.gen_test
async def test_what_is_put_in_within_a_turn_of_the_loop_goes_out_in_one_write() -> None:
    async with ends(packet_pair) as made:
        for data in (b"one,", b"two,", b"three"):
            made.outbox.push(data)
        assert made.outbox.size == 13
        await turn()
        assert made.outbox.size == 0
        made.outbox.push(b"next")
        await turn()
        made.outbox.push(b"last")
        assert await made.device.read() == b"one,two,three"
        assert await made.device.read() == b"next"
        assert await made.device.read() == b"last"


@pytest.mark.gen_test
async def test_all_outboxes_of_a_tick_are_flushed_turn_after_turn() -> None:
    tick = Tick()
    async with ends(tick=tick) as first, ends(tick=tick) as second:
        for number in range(3):
            for each in (first, second, first):
                each.outbox.push(b"%d" % number)
            await turn()
        assert await first.device.exactly(6) == b"001122"
        assert await second.device.exactly(3) == b"012"


@pytest.mark.gen_test
async def test_one_that_cannot_be_flushed_ends_alone() -> None:
    tick = Tick()
    async with ends(tick=tick) as broken, ends(tick=tick) as other:
        broken.outbox.push("no bytes")  # type: ignore[arg-type]  # a fault has to come from somewhere
        broken.outbox.push(b"more")
        for number in range(2):
            other.outbox.push(b"%d" % number)
            await turn()
        assert await other.device.exactly(2) == b"01"
        assert broken.ended


@pytest.mark.gen_test
@both
async def test_what_the_kernel_does_not_take_follows_in_order_as_the_device_reads(
    make: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    async with ends(make) as made:
        data = await made.fill()
        assert made.outbox.size == len(data) - made.outbox.taken
        got = bytearray()
        for number in range(20):
            made.outbox.push(b"<%02d>" % number)
            got += await made.device.exactly(200_000)
        got += await made.device.exactly(len(data) + 80 - len(got))
        assert bytes(got[: len(data)]) == data
        assert got[len(data) :] == b"".join(b"<%02d>" % number for number in range(20))
        await eventually(lambda: made.outbox.size == 0)
        assert made.outbox.taken == len(data) + 80


@pytest.mark.gen_test
@pytest.mark.parametrize("size", [MIB // 4, MIB // 2, MIB, 2 * MIB, 4 * MIB])
async def test_what_is_put_in_while_the_kernel_is_full_is_not_forgotten(size: int) -> None:
    async with ends() as made:
        data = numbered(size)
        made.outbox.push(data)
        await still(lambda: made.outbox.taken)
        made.outbox.push(b"later")
        await turn()
        assert await made.device.exactly(size + 5) == data + b"later"
        # And it isn't forgotten that there is nothing left, either.
        made.outbox.push(b"last")
        assert await made.device.exactly(4) == b"last"


@pytest.mark.gen_test
async def test_what_was_written_is_not_kept_in_memory() -> None:
    async with ends() as made:
        data = numbered(2 * MIB)
        held_by_us = sys.getrefcount(data)
        made.outbox.push(data)
        await made.device.exactly(len(data))
        await eventually(lambda: made.outbox.size == 0)
        await eventually(lambda: sys.getrefcount(data) == held_by_us, within=2)


@pytest.mark.gen_test
async def test_offer_takes_what_fits_and_refuses_what_does_not() -> None:
    async with ends(limit=100) as made:
        assert made.outbox.offer(b"x" * 60)
        assert made.outbox.offer(b"x" * 40)
        assert not made.outbox.offer(b"x")
        assert made.outbox.size == 100
        await turn()
        assert made.outbox.offer(b"y")
        assert await made.device.exactly(100) == b"x" * 100
        assert await made.device.exactly(1) == b"y"


@pytest.mark.gen_test
async def test_what_is_empty_takes_anything_and_push_asks_for_no_room() -> None:
    async with ends(limit=100) as made:
        assert made.outbox.offer(b"x" * 1000)
        assert not made.outbox.offer(b"y")
        made.outbox.push(b"z" * 1000)
        assert made.outbox.size == 2000
        assert await made.device.exactly(2000) == b"x" * 1000 + b"z" * 1000


@pytest.mark.gen_test
async def test_a_limit_of_0_is_none() -> None:
    async with ends() as made:
        await made.fill()
        assert made.outbox.offer(b"x" * MIB)


@pytest.mark.gen_test
async def test_a_device_that_does_not_read_is_offered_nothing_more() -> None:
    async with ends(tcp_pair, limit=MIB) as made:
        refused = 0
        while refused < 100:
            refused += not made.outbox.offer(b"x" * 1000)
            await turn()
        assert made.outbox.size <= MIB


async def has_room(outbox: Outbox) -> None:
    async with outbox.room(1):
        pass


@pytest.mark.gen_test
async def test_there_is_room_once_no_more_than_a_quarter_of_the_limit_is_kept() -> None:
    async with ends(limit=4 * MIB) as made:
        await has_room(made.outbox)
        data = await made.fill(8 * MIB)
        waiting = asyncio.ensure_future(has_room(made.outbox))
        got = 0
        while not waiting.done():
            assert made.budget.used > MIB
            got += len(await made.device.read(64 * 1024))
            await turn()
            await turn()
        assert MIB // 2 < made.outbox.size <= MIB
        await has_room(made.outbox)
        await made.device.exactly(len(data) - got)


@pytest.mark.gen_test
async def test_one_who_waits_for_room_may_give_up() -> None:
    async with ends(limit=MIB) as made:
        data = await made.fill()
        waiting = asyncio.ensure_future(has_room(made.outbox))
        await turn()
        waiting.cancel()
        assert await made.device.exactly(len(data)) == data
        await has_room(made.outbox)
        assert waiting.cancelled()


@pytest.mark.gen_test
async def test_a_flush_at_once_keeps_the_order() -> None:
    async with ends(packet_pair) as made:
        made.outbox.push(b"event,")
        made.outbox.push(b"close")
        made.outbox.flush()
        assert made.device.sock.recv(100) == b"event,close"
        made.outbox.flush()
        made.outbox.push(b"next")
        await turn()
        assert await made.device.read() == b"next"


@pytest.mark.gen_test
@both
async def test_a_flush_does_not_overtake_what_the_kernel_has_not_taken(
    make: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    async with ends(make) as made:
        data = await made.fill()
        for part in (b"event,", b"ping,", b"close"):
            made.outbox.push(part)
            made.outbox.flush()
        assert await made.device.exactly(len(data) + 16) == data + b"event,ping,close"


@pytest.mark.gen_test
async def test_a_closed_one_gives_up_what_is_left_and_takes_nothing_more() -> None:
    async with ends() as made:
        data = await made.fill()
        made.outbox.push(b"waiting")
        made.outbox.close()
        made.outbox.close()
        assert made.outbox.size == 0
        made.outbox.push(b"more")
        assert made.outbox.offer(b"more")
        made.outbox.flush()
        assert made.outbox.size == 0
        # What the kernel has taken already is all that still comes.
        taken = made.outbox.taken
        made.end()
        got = 0
        while part := await made.device.read():
            got += len(part)
        assert got == taken < len(data)


@pytest.mark.gen_test
async def test_it_says_once_that_the_kernel_has_all_at_once_or_as_the_device_reads() -> None:
    told: list[str] = []
    async with ends() as made:
        made.outbox.push(b"last")
        made.outbox.when_empty(lambda: told.append("at once"))
        assert told == ["at once"]
        assert await made.device.exactly(4) == b"last"
    async with ends() as made:
        data = await made.fill()
        # What was put in meanwhile counts as well, however much it is.
        made.outbox.push(data)
        made.outbox.when_empty(lambda: told.append("later"))
        assert await made.device.exactly(len(data)) == data
        await still(lambda: made.outbox.taken)
        assert made.outbox.size > 0
        assert told == ["at once"]
        assert await made.device.exactly(len(data)) == data
        await eventually(lambda: told == ["at once", "later"])
    async with ends() as made:
        await made.fill()
        made.outbox.when_empty(lambda: told.append("never"))
        made.outbox.close()
        made.outbox.when_empty(lambda: told.append("never"))
    assert told == ["at once", "later"]


@pytest.mark.gen_test
async def test_what_the_kernel_has_none_of_can_be_taken_back() -> None:
    async with ends(budget=Budget(limit=1000, largest=10)) as made:
        made.outbox.push(b"first,")
        await turn()
        made.outbox.push(b"never,")
        made.outbox.push(b"this neither,")
        assert made.outbox.withdraw()
        assert made.outbox.size == made.budget.used == 0
        made.outbox.push(b"last")
        await turn()
        assert await made.device.exactly(10) == b"first,last"
        assert made.outbox.withdraw()


@pytest.mark.gen_test
async def test_the_first_is_not_taken_back_nor_anything_in_the_middle_of_a_frame() -> None:
    async with ends() as made:
        made.outbox.push(b"the handshake's answer")
        made.outbox.push(b"never")
        assert made.outbox.withdraw()
        assert made.outbox.size == made.budget.used == len(b"the handshake's answer")
        await turn()
        assert await made.device.read() == b"the handshake's answer"
        await made.fill()
        made.outbox.push(b"more")
        left = made.outbox.size
        assert not made.outbox.withdraw()
        assert made.outbox.size == left


@pytest.mark.gen_test
async def test_one_closed_within_the_turn_writes_nothing() -> None:
    async with ends() as made:
        made.outbox.push(b"never")
        made.outbox.close()
        await turn()
        made.end()
        assert await made.device.read() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize("filled", [False, True])
async def test_the_owner_is_told_of_a_device_that_is_gone(*, filled: bool) -> None:
    async with ends(tcp_pair) as made:
        if filled:
            await made.fill()
        made.device.reset()

        def written() -> bool:
            made.outbox.push(b"x")
            return made.ended

        await eventually(written)
        made.outbox.push(b"more")
        made.outbox.flush()
        await turn()
        assert made.budget.used == 0


# The budget


def budget_of(limit: int) -> Budget:
    return Budget(limit=limit, largest=1000)


@pytest.mark.gen_test
async def test_a_buffer_counts_whole_until_it_is_freed_and_at_most_twice_what_waits() -> None:
    async with ends() as made:
        data = numbered(8 * MIB)
        ours = sys.getrefcount(data)
        made.outbox.push(data)
        await still(lambda: made.outbox.taken)
        assert 0 < made.outbox.size < made.budget.used == len(data)
        got = 0
        while made.budget.used == len(data):
            assert made.outbox.size * 2 >= len(data) - MOST_AT_ONCE
            got += len(await made.device.read(64 * 1024))
        # It stops here, with less than half to go: the rest was copied and the buffer freed.
        await eventually(lambda: sys.getrefcount(data) == ours)
        assert made.outbox.size <= made.budget.used <= len(data) // 2
        rest = await made.device.exactly(len(data) - got)
        assert rest == data[got:]
        await eventually(lambda: made.outbox.size == 0)
        assert made.budget.used == 0


@pytest.mark.gen_test
async def test_what_the_kernel_takes_at_once_leaves_memory_for_the_next_within_a_turn() -> None:
    tick, budget = Tick(), budget_of(100_000)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(ends(tick=tick, budget=budget)) for _ in range(50)]
        data = b"x" * 20_000
        assert [each.outbox.offer(data) for each in made] == [True] * 50
        assert budget.used <= 100_000
        for each in made:
            assert await each.device.exactly(len(data)) == data
        assert budget.used == 0


@pytest.mark.gen_test
async def test_those_that_do_not_read_leave_memory_for_those_that_do() -> None:
    tick, budget = Tick(), budget_of(MIB)
    async with AsyncExitStack() as stack:
        stalled = [
            await stack.enter_async_context(ends(tcp_pair, tick=tick, budget=budget))
            for _ in range(20)
        ]
        for each in stalled:
            tune(each.socket)
        reading = await stack.enter_async_context(ends(tcp_pair, tick=tick, budget=budget))
        data = b"x" * 10_000
        for _ in range(1000):
            for each in stalled:
                each.outbox.offer(data)
            assert reading.outbox.offer(data)
            assert budget.used <= MIB
            assert await reading.device.exactly(len(data)) == data
        assert not any(each.outbox.offer(data) for each in stalled)
        assert sum(each.outbox.size for each in stalled) > MIB // 2


@pytest.mark.gen_test
async def test_however_outboxes_come_and_go_nothing_stays_counted() -> None:
    randomness = random.Random(7)  # noqa: S311 - no secret
    tick, budget = Tick(), budget_of(4 * MIB)
    data = numbered(200_000)
    for _ in range(30):
        async with AsyncExitStack() as stack:
            made = [
                await stack.enter_async_context(
                    ends(tcp_pair, limit=300_000, tick=tick, budget=budget)
                )
                for _ in range(10)
            ]
            for each in made:
                tune(each.socket)
            for _ in range(60):
                each = randomness.choice(made)
                action = randomness.randrange(8)
                if action < 4:
                    each.outbox.offer(data[: randomness.choice([10, 5000, 200_000])])
                elif action == 4:
                    each.outbox.push(data[:100])
                    each.outbox.flush()
                elif action == 5:
                    with suppress(OSError):
                        each.device.sock.recv(randomness.choice([100, 100_000, MIB]))
                elif action == 6:
                    await turn()
                elif randomness.random() < 0.2 and each.device.sock.fileno() >= 0:
                    randomness.choice([each.device.reset, each.outbox.close, each.outbox.fail])()
                assert budget.used >= sum(each.outbox.size for each in made)
        assert budget.used == 0


# Progress


async def seen(progress: Progress, at: float) -> float:
    await turn()
    return progress.stalled_for(at)


@pytest.mark.gen_test
async def test_a_device_that_does_nothing_has_stalled_since_it_was_first_looked_at() -> None:
    async with ends() as made:
        await made.fill()
        progress = Progress(made.outbox, made.socket, now=100.0)
        assert await seen(progress, 101.0) == 1.0
        assert await seen(progress, 129.0) == 29.0
        assert await seen(progress, 131.0) == 31.0


@pytest.mark.gen_test
async def test_what_the_kernel_takes_is_progress() -> None:
    async with ends() as made:
        await made.fill()
        progress = Progress(made.outbox, made.socket, now=100.0)
        taken = made.outbox.taken
        while made.outbox.taken == taken:
            await made.device.read()
            await turn()
        await still(lambda: made.outbox.taken)
        assert await seen(progress, 121.0) == 0.0
        assert await seen(progress, 150.0) == 29.0


@pytest.mark.gen_test
async def test_a_queue_in_the_kernel_that_falls_is_progress() -> None:
    async with ends() as made:
        # All of it is in the kernel: only its queue tells.
        made.outbox.push(b"x" * 50_000)
        made.outbox.push(b"y" * 50_000)
        await turn()
        made.outbox.push(b"z" * 10)
        made.outbox.flush()
        progress = Progress(made.outbox, made.socket, now=100.0)
        assert await seen(progress, 110.0) == 10.0
        queued = queued_bytes(made.socket)
        assert queued > 0
        await made.device.exactly(100_010)
        await eventually(lambda: queued_bytes(made.socket) < queued)
        assert await seen(progress, 120.0) == 0.0
        assert await seen(progress, 125.0) == 5.0


@pytest.mark.gen_test
async def test_a_byte_that_comes_is_progress() -> None:
    async with ends(tcp_pair) as made:
        await made.fill()
        progress = Progress(made.outbox, made.socket, now=time.monotonic())
        await eventually(lambda: progress.stalled_for(time.monotonic()) > 0.3)

        def heard() -> bool:
            made.device.sock.send(b"x")
            return progress.stalled_for(time.monotonic()) < 0.15

        await eventually(heard)
        await eventually(lambda: progress.stalled_for(time.monotonic()) > 0.3)


@pytest.mark.gen_test
async def test_the_kernel_says_how_much_is_queued_and_how_long_ago_a_byte_came() -> None:
    async with ends(tcp_pair) as made:

        def since_received() -> float:
            ago = seconds_since_received(made.socket)
            assert ago is not None
            return ago

        def heard() -> bool:
            made.device.sock.send(b"x")
            return since_received() < 0.2

        await eventually(heard)
        await eventually(lambda: since_received() > 0.2)
        await eventually(lambda: queued_bytes(made.socket) == 0)
        await made.fill()
        assert queued_bytes(made.socket) > 0
    async with ends(unix_pair) as made:
        assert seconds_since_received(made.socket) is None


def test_a_device_s_socket_writes_at_once_and_holds_little_that_is_unsent() -> None:
    server, client = tcp_pair()
    with server, client:
        tune(server)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
    server, client = unix_pair()
    with server, client:
        tune(server)


# TLS


@pytest.mark.gen_test
async def test_everything_arrives_in_order_through_tls(tmp_path: Path) -> None:
    path = certificate_with_key(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(path)
    trusting = ssl.create_default_context(cafile=str(path))
    server, client = tcp_pair()
    server.settimeout(0)
    wrapped = serving.wrap_socket(server, server_side=True, do_handshake_on_connect=False)
    handshake = asyncio.create_task(shake_hands(wrapped))
    connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    connecting = asyncio.open_connection(sock=client, ssl=trusting, server_hostname="localhost")
    _, (device, writer) = await asyncio.gather(handshake, connecting)
    outbox = Outbox(wrapped, Tick(), Budget(limit=0, largest=0), limit=0, lost=wrapped.close)
    data = numbered(16 * MIB)
    outbox.push(data)
    await turn()
    # How far it is shows before all of it is taken.
    assert 0 < outbox.taken < len(data)
    for part in (b"event,", b"close"):
        outbox.push(part)
        outbox.flush()
    async with asyncio.timeout(PATIENCE.total_seconds()):
        assert await device.readexactly(len(data) + 11) == data + b"event,close"
    await eventually(lambda: outbox.size == 0)
    assert outbox.taken == len(data) + 11
    outbox.close()
    wrapped.close()
    writer.close()


async def shake_hands(wrapped: ssl.SSLSocket) -> None:
    while True:
        try:
            wrapped.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await turn()
        else:
            return
