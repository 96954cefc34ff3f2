"""Which web pages may connect."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|null")


def is_origin(text: str) -> bool:
    """Whether a text is an origin as browsers send it, and so as it can be configured."""
    return _ORIGIN.fullmatch(text) is not None


class OriginPolicy:
    """The origins (RFC 6454) whose pages may connect: the server's own, and those listed.

    An entry is an origin (``https://app.example.com``), one with a wildcard for subdomains
    (``https://*.example.com``, which is not example.com itself), ``*`` for all, or ``null``
    for pages without one.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._all = "*" in allowed
        self._listed = frozenset(origin.lower() for origin in allowed)
        self._patterns = [
            re.compile(re.escape(origin.lower()).replace(r"\*", r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"))
            for origin in allowed
            if "*" in origin and origin != "*"
        ]

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may connect to a server that it calls `host`."""
        origin = _normal(origin)
        if self._all or origin in self._listed:
            return True
        # The scheme is the proxy's business: behind one that ends TLS it can't be known here.
        scheme, _, name = origin.partition("://")
        if name and name == host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, "")):
            return True
        return any(pattern.fullmatch(origin) for pattern in self._patterns)

    def cors_headers(self, origin: str | None, host: str) -> dict[str, str]:
        """Return what an answer says to the browser of a page of `origin` (None: of no page).

        It names the one origin that asked and no other, also where all may; so that no cache
        gives that answer to another, it says that the origin matters, allowed or not. Cookies
        are never allowed for: the token is what counts.
        """
        if origin is None or not self.allows(origin, host):
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def _normal(origin: str) -> str:
    origin = origin.lower()
    try:
        parts = urlsplit(origin)
    except ValueError:
        return origin
    return origin.removesuffix(_DEFAULT_PORTS.get(parts.scheme, "\0"))
