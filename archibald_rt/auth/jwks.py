"""The issuer's key set (JWKS, RFC 7517, section 5): fetched, kept, fetched again.

Whoever verifies a token looks at `Jwks.keys` and never waits. One task fetches: at the start,
when the set has an age, and when somebody brought a token with a ``kid`` that is not in it,
which strangers can do as often as they like and the issuer is to hear of only now and then.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from archibald_rt.auth.keys import Key, key_of_jwk
from archibald_rt.errors import ArchibaldError

MAX_AGE = 300.0
"""How old, in seconds, a key set may get until it is fetched again."""

RETRY = 10.0
"""After how many seconds a fetch that failed is tried again."""

ASKED_EVERY = 5.0
"""How many seconds at least lie between two fetches that unknown keys ask for."""

PATIENCE = 8.0
"""For how many seconds at most a token waits for its key: one fetch, and the pause before it."""

WAITING = 1000
"""How many tokens may wait at once; the next are refused without."""

MOST_KEYS = 100
"""How many keys of a set are looked at: a token without a ``kid`` may be tried with each."""

# As if the last fetch had been long ago.
_AT_ONCE = float("-inf")

_logger = structlog.stdlib.get_logger("archibald_rt.auth")


class FetchError(ArchibaldError):
    """A document can't be fetched; the message is one line."""


Fetch = Callable[[str], Awaitable[bytes]]
"""Fetches an address, within bounds of time and size. Raises `FetchError`."""


class Jwks:
    """The key set at ``url``; None is none. `run` has to run as long as it is used.

    A set that was fetched stays good until another one was: an issuer that is down, slow or
    answers nonsense takes no key away.
    """

    def __init__(self, fetch: Fetch, url: str | None, *, max_age: float = MAX_AGE) -> None:
        self.keys: tuple[Key, ...] = ()
        """The keys of the set; another tuple if, and only if, they have changed."""
        self._fetch = fetch
        self._url = url
        self._max_age = max_age
        self._wanted = asyncio.Event()
        self._began = _AT_ONCE
        self._failed = False
        self._done: asyncio.Future[None] | None = None
        self._waiting = 0
        self._closed = False

    def use(self, url: str | None) -> None:
        """Take the set of this address from now on, fetched at once; the same one again too."""
        if url != self._url:
            self._url = url
            self._failed = False
            if self.keys:
                self.keys = ()
        self._began = _AT_ONCE
        self._wanted.set()

    def may_have(self, kid: str | None) -> bool:
        """Whether a fetch might bring a key that is not there: one of this name, or any at all."""
        if self._url is None:
            return False
        if kid is None:
            return not self.keys
        return all(key.kid != kid for key in self.keys)

    async def fetched_anew(self) -> None:
        """Ask for a fetch and wait for its end, whatever that is, or for `PATIENCE`."""
        if self._closed or self._url is None or self._waiting >= WAITING:
            return
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        self._waiting += 1
        self._wanted.set()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._done), PATIENCE)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Keep nobody waiting any more, and fetch nothing more. Doing it again does nothing."""
        self._closed = True
        self._wanted.set()
        self._release()

    async def run(self) -> None:
        """Fetch and fetch again, until closed or cancelled."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            if self._url is None:
                await self._wanted.wait()
                self._wanted.clear()
                continue
            self._wanted.clear()
            self._began = loop.time()
            await self._fetch_once(self._url)
            if self._began != _AT_ONCE:
                # Who asked while it was under way has got it.
                self._wanted.clear()
                self._release()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if self._failed else self._max_age):
                    await self._wanted.wait()
                    await asyncio.sleep(max(0.0, self._began + ASKED_EVERY - loop.time()))

    def _release(self) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(None)

    async def _fetch_once(self, url: str) -> None:
        try:
            keys, skipped = await asyncio.to_thread(_read, await self._fetch(url))
        except Exception as error:  # noqa: BLE001 - said in a line; no answer may end the server
            if url == self._url:
                self._note_failure(error)
            return
        if url != self._url:
            # Another one was configured meanwhile.
            return
        if self._failed:
            _logger.info("the key set can be fetched again")
        self._failed = False
        if keys != self.keys:
            self.keys = keys
            _logger.info("key set fetched", keys=len(keys), skipped=skipped)

    def _note_failure(self, error: Exception) -> None:
        if not self._failed:
            _logger.warning(
                "the key set can't be fetched, trying again",
                reason=str(error),
                keys_kept=len(self.keys),
                seconds=RETRY,
            )
        self._failed = True


def _read(document: bytes) -> tuple[tuple[Key, ...], int]:
    """Return the keys of a set and how many others are in it. Raises `ValueError`."""
    try:
        members: Any = json.loads(document)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("what came is no key set") from None
    if not isinstance(members, list):
        raise ValueError("what came is no key set")  # noqa: TRY004 - a fault of a document
    keys = []
    for member in members[:MOST_KEYS]:
        if isinstance(member, Mapping):
            with contextlib.suppress(ValueError):
                keys.append(key_of_jwk(member))
    if not keys:
        # An issuer without keys is more likely broken than done with all it ever signed.
        raise ValueError("no key in the set can be used")
    return tuple(keys), len(members) - len(keys)
