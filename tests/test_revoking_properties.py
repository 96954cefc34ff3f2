"""Revocations, kicks and new tokens in random order, against devices with real sockets.

The log waits at a gate before and after its commits and its pages, so that each may lie on
either side of whatever else happens. The model knows for sure which tokens are refused (what was
answered) and which are not (what nobody asked for); in between either will do.

``PROPERTY_EFFORT=10`` tries ten times as many examples.
"""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from archibald_rt.auth import Identity, TokenVerifier
from archibald_rt.auth.keys import secret_key
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError
from archibald_rt.eventlog import Page
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import Emission, make_tail
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.origins import OriginPolicy
from archibald_rt.protocol import CLOSE, V2, frame
from archibald_rt.reception import Reception, Tuning
from archibald_rt.revocations import Revocations
from archibald_rt.revoking import Revoker
from archibald_rt.socketdevice import SocketDevice
from archibald_rt.sweep import Sweep
from archibald_rt.timestamps import Stamper
from archibald_rt.websocket import Connection
from support import PATIENCE, SECRET, token

EFFORT = float(os.environ.get("PROPERTY_EFFORT", "1"))
SECOND = 10**9
NEVER = 2**62
STAMP = "2026-01-01T00:00:00Z"
CUT_OFF = frame(CLOSE, (4002).to_bytes(2) + b"Disconnected")
REFUSED = frame(CLOSE, (1008).to_bytes(2) + b"Authentication failed")

Claims = tuple[str, float | None, str | None]
"""Whose a token is, when it was issued and which one it is."""

users = st.sampled_from(["ann", "ann", "bob"])
claims = st.tuples(users, st.sampled_from([None, 1, 2, 2.5, 3]), st.sampled_from([None, "s", "t"]))
turns = st.sampled_from([0, 1, 2, 5])
numbers = st.integers(0, 30)


class Asked(NamedTuple):
    """What was asked for, as far as it revokes something."""

    user: str | None
    before: float | None
    token_id: str | None

    def revokes(self, held: Claims) -> bool:
        user, issued, token_id = held
        if self.token_id is not None:
            return token_id == self.token_id
        return user == self.user and self.before is not None and (issued or 0) < self.before

    def ends(self, held: Claims) -> bool:
        return self.revokes(held) or (self.user is not None and held[0] == self.user)


class Device:
    """A device of the test: the server's end of it, and its own."""

    def __init__(self, world: "World", held: Claims) -> None:
        self.held = held
        ours, self.socket = socket.socketpair()
        for each in (ours, self.socket):
            each.settimeout(0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reception = world.reception
        self.connection = Connection(
            ours, reception.tick, reception.budget, limit=4000, max_message=1000
        )
        # The answer to the handshake went out before.
        self.connection.outbox.push(b"101 ")
        self.connection.outbox.flush()
        self.owner = SocketDevice(self.connection, reception, world.v2)
        self.got = b""
        self.shut_after: int | None = None

    def read(self, count: int) -> None:
        try:
            self.got += self.socket.recv(count)
        except (BlockingIOError, ConnectionResetError):
            return

    def shut(self) -> None:
        """Note that from now on nothing but a close frame may be handed to its socket."""
        if self.shut_after is None:
            self.shut_after = self.connection.outbox.taken

    def check(self) -> None:
        """Check that nothing else was."""
        if self.shut_after is not None:
            more = self.connection.outbox.taken - self.shut_after
            assert more <= len(CUT_OFF), f"{more} bytes were handed over after the answer"


class World:
    """The parts of a server on a loop that is run turn by turn."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.path = folder / "events.db"
        self.devices: list[Device] = []
        self.pending: dict[asyncio.Task[int], Asked] = {}
        self.answered: list[Asked] = []
        self.gated = True
        self.gates: list[asyncio.Future[None]] = []
        self.faults: list[BaseException] = []
        self._stack = AsyncExitStack()
        self.run(self._open())

    async def _open(self) -> None:
        log = await self._stack.enter_async_context(open_sqlite(self.path))
        self.log = log
        self.hub = Hub(log.head, recent=0)
        self.reception = Reception(
            TokenVerifier([secret_key(SECRET)]),
            Revocations(await log.revocations()),
            OriginPolicy([]),
            self.hub,
            log,
            Sweep(heartbeat=0, stall_timeout=0),
            tuning=Tuning(replay_page=2, max_outbox=4000),
            broken=self.faults.append,
        )
        self.order = OrderQueue(log, self.hub, max_bytes=0, on_broken=self.faults.append)
        self.revoker = Revoker(log, self._turn, self.reception)
        self.v2 = V2(log.epoch, Stamper())
        plain = log.page

        async def page(*args: Any, **kwargs: Any) -> Page:
            await self.gate()
            found = await plain(*args, **kwargs)
            await self.gate()
            return found

        log.page = page  # type: ignore[method-assign]  # the real one behind gates

    async def _turn(self, step: Callable[[], Awaitable[int]]) -> int:
        async def gated() -> int:
            await self.gate()
            return await step()

        return await self.order.between(gated)

    async def gate(self) -> None:
        if self.gated:
            gate = self.loop.create_future()
            self.gates.append(gate)
            try:
                await gate
            finally:
                self.gates.remove(gate)

    def open_gates(self, number: int | None = None) -> None:
        """Let one of the calls that wait go on, or all of them."""
        waiting = [gate for gate in self.gates if not gate.done()]
        if number is not None and waiting:
            waiting = [waiting[number % len(waiting)]]
        for gate in waiting:
            gate.set_result(None)

    def run(self, work: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                return await work

        return self.loop.run_until_complete(bounded())

    def turns(self, count: int) -> None:
        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0.0005)

        self.run(turn())
        self.look()

    def look(self) -> None:
        assert not self.faults, self.faults
        for device in self.devices:
            device.check()

    def surely_refused(self, held: Claims) -> bool:
        return any(asked.revokes(held) for asked in self.answered)

    def maybe_refused(self, held: Claims) -> bool:
        return any(asked.revokes(held) for asked in (*self.answered, *self.pending.values()))

    def identify(self, held: Claims) -> Identity | None:
        """Verify a token, of which the model has to say the same."""
        try:
            identity = self.reception.identify(signed(held))
        except AuthError:
            assert self.maybe_refused(held), "a good token was refused"
            return None
        assert not self.surely_refused(held), "a revoked token was taken"
        return identity

    def submit(self, emission: Emission) -> None:
        """Have something emitted."""

        async def submit() -> None:
            self.order.submit([emission])

        self.run(submit())

    def ask(self, asked: Asked) -> None:
        """Ask the revoker for it; what follows from its answer is noted as it is given."""

        async def work() -> int:
            if asked.token_id is not None:
                count = await self.revoker.revoke_token(asked.token_id, expires=NEVER)
            else:
                before = None if asked.before is None else int(asked.before * SECOND)
                count = await self.revoker.disconnect(asked.user or "", revoke_before=before)
            # The moment of the answer: nothing was awaited since it was done.
            self.answered.append(asked)
            for device in self.devices:
                if asked.ends(device.held):
                    assert device.owner not in self.reception.devices
                    device.shut()
            return count

        task = self.loop.create_task(work())
        self.pending[task] = asked
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[int]") -> None:
        del self.pending[task]
        if (error := task.exception()) is not None:
            self.faults.append(error)

    def close(self) -> None:
        self.gated = False
        self.run(self._end())
        self.loop.close()

    async def _end(self) -> None:
        while self.pending or self.gates:
            self.open_gates()
            await asyncio.sleep(0)
        for device in self.devices:
            device.connection.abort()
            device.socket.close()
        await self.order.close()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*left, return_exceptions=True)
        await self._stack.aclose()


def signed(held: Claims) -> str:
    user, issued, token_id = held
    said = {"iat": issued, "jti": token_id}
    return token(user, **{name: each for name, each in said.items() if each is not None})  # type: ignore[arg-type]  # claims, no secret


class Refusals(RuleBasedStateMachine):
    """Everything that can happen around a revocation, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.verified: list[tuple[Claims, Identity]] = []

    def teardown(self) -> None:
        try:
            self.world.close()
            self.world.look()
            self.restart()
        finally:
            self.folder.cleanup()

    def restart(self) -> None:
        """Check that the next process refuses the same."""
        asked = self.world.answered
        again = World(Path(self.folder.name))
        again.answered = asked
        try:
            for user in ("ann", "bob"):
                for issued in (None, 1, 2, 2.5, 3):
                    for token_id in (None, "s", "t"):
                        again.identify((user, issued, token_id))
        finally:
            again.close()

    @rule(user=users, count=st.integers(1, 5), size=st.sampled_from([10, 3000]), turns=turns)
    def emit(self, user: str, count: int, size: int, turns: int) -> None:
        tail = make_tail(b'"A"', b'"%b"' % (b"x" * size), STAMP)
        for _ in range(count):
            self.world.submit(Emission(user, tail, STAMP, 0, durable=True))
        self.world.turns(turns)

    @rule(held=claims)
    def verify(self, held: Claims) -> None:
        identity = self.world.identify(held)
        if identity is not None:
            self.verified.append((held, identity))

    @precondition(lambda self: self.verified)
    @rule(number=numbers, resume=st.booleans(), turns=turns)
    def register(self, number: int, resume: bool, turns: int) -> None:  # noqa: FBT001 - given by name
        held, identity = self.verified[-1 - number % len(self.verified)]
        world = self.world

        async def begin() -> tuple[Device, bool]:
            device = Device(world, held)
            world.devices.append(device)
            device.owner.begin(identity, Resume("earliest") if resume else Resume())
            device.connection.start(device.owner)
            return device, device.owner in world.reception.devices

        device, registered = world.run(begin())
        if registered:
            assert not world.surely_refused(held), "a revoked token was registered"
        else:
            assert world.maybe_refused(held), "a good token was not registered"
            device.shut_after = device.connection.outbox.taken
        world.turns(turns)

    @precondition(lambda self: self.world.devices)
    @rule(number=numbers, held=claims, turns=turns)
    def authenticate(self, number: int, held: Claims, turns: int) -> None:
        world = self.world
        device = world.devices[-1 - number % len(world.devices)]
        if device.owner not in world.reception.devices:
            return
        message = json.dumps({"type": "rt.auth", "payload": {"token": signed(held)}})

        async def send() -> bool:
            device.owner.on_message(message)
            return device.owner in world.reception.devices

        if world.run(send()):
            assert held[0] == device.held[0]
            assert not world.surely_refused(held), "a revoked token was taken by rt.auth"
            device.held = held
        else:
            assert held[0] != device.held[0] or world.maybe_refused(held)
        world.turns(turns)

    @rule(user=users, before=st.sampled_from([None, 1.5, 2, 2.5, 3]), turns=turns)
    def disconnect(self, user: str, before: float | None, turns: int) -> None:
        self.world.ask(Asked(user, before, None))
        self.world.turns(turns)

    @rule(token_id=st.sampled_from(["s", "t"]), turns=turns)
    def revoke(self, token_id: str, turns: int) -> None:
        self.world.ask(Asked(None, None, token_id))
        self.world.turns(turns)

    @rule(number=numbers, turns=turns)
    def let_a_call_through(self, number: int, turns: int) -> None:
        self.world.open_gates(number)
        self.world.turns(turns)

    @rule(turns=turns)
    def let_all_calls_through(self, turns: int) -> None:
        self.world.open_gates()
        self.world.turns(turns)

    @precondition(lambda self: self.world.devices)
    @rule(number=numbers, count=st.sampled_from([100, 5000, 100_000]), turns=turns)
    def read(self, number: int, count: int, turns: int) -> None:
        self.world.devices[-1 - number % len(self.world.devices)].read(count)
        self.world.turns(turns)


def test_nothing_reaches_a_device_that_was_cut_off_and_no_revoked_token_is_taken() -> None:
    run_state_machine_as_test(
        Refusals,
        settings=settings(
            deadline=None,
            derandomize="CI" in os.environ,
            max_examples=round(60 * EFFORT),
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
