"""Which addresses the service may call for somebody: none of its own network, unless allowed."""

import ipaddress
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from service.errors import InvalidInput, UrlNotAllowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS = {"http": 80, "https": 443}


def parse_url(url: str, *, allowed: Sequence[Network]) -> tuple[str, str, int]:
    """Scheme, host and port. InvalidInput where it cannot be called, or is an address of ours."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidInput(f"a webhook's URL begins with http:// or https://, received {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("a webhook's URL holds no password; the signature says who calls")
    try:
        literal = ipaddress.ip_address(parts.hostname)
    except ValueError:
        pass  # a name: what it stands for is seen when it is called
    else:
        if not is_allowed(literal, allowed):
            raise InvalidInput(f"{literal} is no public address and not among those allowed")
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]


def resolve(host: str, port: int, *, allowed: Sequence[Network]) -> Address:
    """The address to call; the caller connects to it and asks no name server again.

    UrlNotAllowed where the name stands for any address that is not allowed: which of several
    would be called is chance. OSError where it stands for none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not is_allowed(address, allowed):
            raise UrlNotAllowed(f"{host} is {address}: not public and not among those allowed")
    return addresses[0]


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is public, or in a network that the settings name.

    An IPv4 address that travels inside an IPv6 one counts as what it is.
    """
    inner = _inner(address)
    if any(one.version == inner.version and inner in one for one in allowed):
        return True
    return inner.is_global and not inner.is_multicast


def _inner(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo is not None else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
