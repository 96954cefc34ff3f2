"""Devices disconnected and tokens revoked, on demand of the back end."""

from collections.abc import Callable

import msgspec
import structlog

from archibald_rt.auth import Identity
from archibald_rt.errors import (
    DrainingError,
    LogUnavailableError,
    LogUncertainError,
    RevocationsFullError,
)
from archibald_rt.eventlog import EventLog, Turn
from archibald_rt.eventlog.base import Step
from archibald_rt.questions import Shut
from archibald_rt.reception import Reception
from archibald_rt.revocations import Revocation

KICK_WITHIN = 5.0
"""For how many seconds other servers are waited for where nothing is revoked."""

_REMEMBERED = 1000
"""Of how many revocations it is kept how many devices they have cut off."""

_encode = msgspec.json.encode
_logger = structlog.stdlib.get_logger("archibald_rt.revoking")


class Revoker:
    """Commits a revocation, then refuses the tokens, then cuts off the devices.

    In this order nobody slips through. What could not be committed is not refused either, so
    it leaves nothing behind. Refusing and cutting off are one step of the loop: whoever
    registered before is among the devices that are cut off, whoever comes later is refused.
    And it is the step that committed which goes on with that, so that no caller who goes away
    can leave a revocation on disk that is not in force. Where several servers have the log the
    others are asked then; what the caller is told is of all of them.

    ``turn`` is the order queue's.
    """

    def __init__(self, log: EventLog, turn: Turn, reception: Reception) -> None:
        self._log = log
        self._turn = turn
        self._reception = reception
        # How many devices were cut off by what the log brought, for whoever asks: once.
        self._heard: dict[Revocation, int] = {}

    async def disconnect(
        self, user: str, *, revoke_before: int | None = None, request_id: str = ""
    ) -> int:
        """Cut off all devices of a user; returns how many.

        With a moment (in nanoseconds since 1970) the user's tokens issued before are revoked
        first. The log line has the ``request_id``. Raises `DrainingError`,
        `LogUnavailableError` (nothing was done), `LogBrokenError` (they may have been revoked) or
        `LogUncertainError` (that, or it is unknown whether another server has cut them off).
        """
        shut = Shut(user=user, before=revoke_before)
        revocation = shut.revocation
        count = await self._revoke(revocation, lambda held: held.user == user)
        count += await self._shut_elsewhere(shut)
        _logger.info(
            "user disconnected",
            devices=count,
            revoked=revocation is not None,
            request_id=request_id,
        )
        return count

    async def revoke_token(self, token_id: str, *, expires: int, request_id: str = "") -> int:
        """Revoke one token and cut off the devices that hold it; returns how many.

        ``expires`` is when it expires, in nanoseconds since 1970; where that is past nothing is
        kept. Raises as `disconnect`, and `RevocationsFullError`.
        """
        kept = expires >= self._reception.revocations.forgettable
        shut = Shut(token_id=token_id, expires=expires if kept else None)
        revocation = shut.revocation
        count = await self._revoke(revocation, lambda held: held.token_id == token_id)
        count += await self._shut_elsewhere(shut)
        _logger.info(
            "token revoked", devices=count, expired=revocation is None, request_id=request_id
        )
        return count

    def heard(self, revocation: Revocation) -> None:
        """Refuse what was revoked by way of another server, and cut off who holds it.

        Of a user's devices those whose tokens are refused now; others may be connected by then.
        """
        revocations = self._reception.revocations
        revocations.add(revocation)
        if count := self._reception.cut_off(revocations.revoked):
            self._heard[revocation] = self._heard.get(revocation, 0) + count
            if len(self._heard) > _REMEMBERED:
                del self._heard[next(iter(self._heard))]

    def shut(self, shut: Shut) -> int:
        """Do what another server says; returns how many devices were cut off for it.

        Those are among them that were cut off when the log brought the same.
        """
        count = 0
        if (revocation := shut.revocation) is not None:
            self.heard(revocation)
            count = self._heard.pop(revocation, 0)
        return count + self._reception.cut_off(
            lambda held: (
                shut.user == held.user if shut.token_id is None else shut.token_id == held.token_id
            )
        )

    async def _shut_elsewhere(self, shut: Shut) -> int:
        """Have the other servers do the same; returns how many devices they cut off.

        What is revoked is in force at each of them when this returns, or is before it serves
        anybody again. Raises `LogUncertainError` where only a server itself could say that
        its devices are cut off, and doesn't.
        """
        peers = self._log.peers
        if peers is None:
            return 0
        kept = shut.revocation is not None
        if not kept:
            try:
                await peers.meet()
            except LogUnavailableError as error:
                raise LogUncertainError(str(error)) from None
        answers = await peers.ask(_encode(shut), None if kept else KICK_WITHIN)
        if answers.silent:
            names = ", ".join(answers.silent)
            if not kept:
                raise LogUncertainError(f"no answer came from {names}")
            _logger.warning(
                "servers did not answer: each serves nobody until it knows what is revoked",
                nodes=names,
            )
        return sum(msgspec.json.decode(each, type=int) for each in answers.given if each)

    async def _revoke(
        self, revocation: Revocation | None, those: Callable[[Identity], bool]
    ) -> int:
        reception, revocations = self._reception, self._reception.revocations
        if reception.draining:
            raise DrainingError("the server is going away")
        if revocation is None:
            return reception.cut_off(those)
        if not revocations.has_room(revocation):
            # It is done with the pruning, too, which may be off.
            revocations.forget(revocations.forgettable)
        if not revocations.has_room(revocation):
            raise RevocationsFullError(
                f"{revocations.tokens} tokens are revoked, and no more may be until some of them"
                " have expired; revoke all of the user's by revokeBefore"
            )
        count = 0

        async def turn(step: Step) -> int:
            async def commit_and_cut_off() -> int:
                nonlocal count
                done = await step()
                # From here on nothing is awaited.
                revocations.add(revocation)
                count = reception.cut_off(those)
                return done

            return await self._turn(commit_and_cut_off)

        await self._log.revoke(revocation, turn)
        return count
