"""Guards webhooks against SSRF: they may call public addresses and allowed networks only."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from service.errors import InvalidInput, UrlNotAllowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# All that is assigned of the internet (RFC 4291). Not in it: ::127.0.0.1, local NAT64, fec0::1.
_IPV6_INTERNET = IPv6Network("2000::/3")
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}\.?")
# Resolvers read 127.1 and 0x7f000001 as addresses.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_NOT_ALLOWED = "is not a public address and not in RESNETD_WEBHOOK_NETWORKS"


def parse_url(url: str, *, allowed: Sequence[Network]) -> tuple[str, str, int]:
    """Scheme, host and port of a webhook's URL.

    Raises InvalidInput for another scheme, credentials, or a host that cannot exist, UrlNotAllowed
    for an address that is not allowed. A host name is resolved when the webhook is called.
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
    if port == 0:
        raise InvalidInput("a webhook URL must not have port 0")
    _check_host(parts.hostname, is_bracketed="[" in parts.netloc, allowed=allowed)
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
    """Whether the address is on the internet or in an allowed network.

    For an IPv6 address that embeds an IPv4 address, the latter decides.
    """
    target = _extract_ipv4(address)
    if any(network.version == target.version and target in network for network in allowed):
        return True
    if isinstance(target, IPv6Address) and target not in _IPV6_INTERNET:
        return False
    return target.is_global and not target.is_multicast


def _check_host(host: str, *, is_bracketed: bool, allowed: Sequence[Network]) -> None:
    """UrlNotAllowed for an address that is not allowed, InvalidInput for what is no host name."""
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        is_number = _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None
        if is_bracketed or is_number or _HOST_NAME.fullmatch(host) is None:
            raise InvalidInput(
                f"the host of a webhook URL must be a name or an address; received {host!r}"
            ) from None
        return
    if not is_allowed(literal, allowed):
        raise UrlNotAllowed(f"{literal} {_NOT_ALLOWED}")


def _extract_ipv4(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo is not None else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
