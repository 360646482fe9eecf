"""Guards webhooks against SSRF: they may call public addresses and allowed networks only."""

import ipaddress
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from service.errors import InvalidInput, UrlNotAllowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_NOT_ALLOWED = "is not a public address and not in RESNETD_WEBHOOK_NETWORKS"


def parse_url(url: str, *, allowed: Sequence[Network]) -> tuple[str, str, int]:
    """Scheme, host and port of a webhook's URL.

    Raises InvalidInput for another scheme, credentials, or an address that is not allowed. A host
    name is resolved when the webhook is called.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{url!r} is not a valid URL: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidInput(f"a webhook URL must start with http:// or https://, received {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("a webhook URL must not contain a user name or password")
    try:
        literal = ipaddress.ip_address(parts.hostname)
    except ValueError:
        pass  # a host name
    else:
        if not is_allowed(literal, allowed):
            raise InvalidInput(f"{literal} {_NOT_ALLOWED}")
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]


def resolve(host: str, port: int, *, allowed: Sequence[Network]) -> Address:
    """The address of the host; the caller connects to it without resolving the host again.

    Raises UrlNotAllowed if any address of the host is not allowed, OSError if it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not is_allowed(address, allowed):
            raise UrlNotAllowed(f"{host} resolves to {address}, which {_NOT_ALLOWED}")
    return addresses[0]


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether the address is public or in an allowed network.

    For an IPv6 address that embeds an IPv4 address, the latter decides.
    """
    target = _embedded_ipv4(address)
    if any(network.version == target.version and target in network for network in allowed):
        return True
    return target.is_global and not target.is_multicast


def _embedded_ipv4(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo is not None else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
