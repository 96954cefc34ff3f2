"""A credentials file of NATS: a user's JWT and the seed of the key that proves it."""

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import nats.errors
import nkeys  # type: ignore[import-untyped]  # it has no types

from archibald_rt.errors import LogOpenError

_JWT = re.compile(rb"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(rb"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")


class Credentials:
    """A file that is read for each connection, so that a new one counts from the next one on.

    (The client's own reading of a file without a JWT never ends.)
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def callbacks(self) -> Mapping[str, Callable[..., bytes]]:
        """Return what the client is to ask, as arguments of its `connect`.

        Raises `LogOpenError` for a file that can't be used. One that can't later on fails a try to
        connect with `nats.errors.Error`.
        """
        try:
            self._sign("")
            self._jwt()
        except nats.errors.Error as error:
            raise LogOpenError(str(error)) from None
        return {"user_jwt_cb": self._jwt, "signature_cb": self._sign}

    def _jwt(self) -> bytes:
        return self._read(_JWT)

    def _sign(self, nonce: str) -> bytes:
        try:
            pair = nkeys.from_seed(bytearray(self._read(_SEED)))
        except nkeys.NkeysError:
            raise self._unusable("its seed is no user's") from None
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    def _read(self, pattern: re.Pattern[bytes]) -> bytes:
        try:
            found = pattern.search(self._path.read_bytes())
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from None
        if found is None:
            raise self._unusable("it holds no JWT and seed of a user")
        return found[1]

    def _unusable(self, why: str) -> nats.errors.Error:
        return nats.errors.Error(f"[nats] credentials {self._path}: {why}")
