"""Whose address a request comes from, also behind proxies: texts in, texts out, no I/O."""

import ipaddress
import re
from collections.abc import Sequence

NO_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing listens on it
"""What Tornado says of a connection that has no address, such as one over a Unix socket."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Some proxies write the port, too: 192.0.2.1:4711, [2001:db8::1]:4711 or [2001:db8::1].
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
# Of an IPv6 address, what is not the customer's to choose (RFC 6177: a /64 or more is theirs).
_CHOSEN_BITS = 64


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is believed: addresses and networks.

    Without any nobody is believed. With some, a connection that has no address is one of a
    proxy on this machine, for nobody else can reach a Unix socket.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]

    def client(self, peer: str, forwarded: str) -> str:
        """Return the address of whoever asked the first proxy that is not ours.

        ``peer`` is the connection's own address, ``forwarded`` the header, or several joined
        by commas. Each proxy adds at the end whom it was asked by, so it is read from there:
        up to the first address that is not trusted, or to what is no address at all. What
        stands before it anybody may have written.
        """
        if not self._networks:
            return peer
        address = _parse(peer)
        local = peer == NO_ADDRESS or address is None
        for entry in reversed(forwarded.split(",")):
            if not (local or self._trusts(address)):
                break
            before = _parse(entry.strip())
            if before is None:
                break
            local, address = False, before
        return peer if local or address is None else str(address)

    def _trusts(self, address: _Address | None) -> bool:
        return any(address in network for network in self._networks)


def group_of(address: str) -> str:
    """Return a key of what counts as one client: an IPv4 address, or a /64 of IPv6.

    It is empty for a text that is no address, and for a connection that has none.
    """
    parsed = _parse(address)
    if parsed is None or address == NO_ADDRESS:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    # A network object would be five times as slow.
    return f"{int(parsed) >> _CHOSEN_BITS:x}::/64"


def _parse(text: str) -> _Address | None:
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket for both families gives IPv4 addresses as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address
