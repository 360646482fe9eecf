"""Which addresses webhooks may call, in every notation of an address."""

import ipaddress
import socket
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput, UrlNotAllowed
from service.notifications import url_guard


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert url_guard.is_allowed(ipaddress.ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "::10.0.0.1",
        "::93.184.216.34",
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::7f00:1",
        "fec0::1",
        "2001:0:7f00:1::80ff:fffe",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not url_guard.is_allowed(ipaddress.ip_address(address), ())


def test_a_private_network_is_allowed_if_the_settings_name_it() -> None:
    allowed = (ipaddress.ip_network("10.0.0.0/8"),)
    assert url_guard.is_allowed(ipaddress.ip_address("10.1.2.3"), allowed)
    assert url_guard.is_allowed(ipaddress.ip_address("::ffff:10.1.2.3"), allowed)
    assert not url_guard.is_allowed(ipaddress.ip_address("192.168.1.1"), allowed)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "example.org",
        "http://",
        "http://me:secret@example.org/",
        "http://[::1/",
        "http://example.org:99999/",
        "http://127.0.0.1:8000/",
        "https://[::ffff:10.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://a..b/hook",
        "http://.example.org/",
        "http://-a.example.org/",
        "http://exa%6dple.org/",
        "http://exa mple.org/",
        "http://" + "a" * 64 + ".org/",
        "http://" + "a." * 127 + "org/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://[v1.x]/",
        "http://example.org:0/",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        url_guard.parse_url(url, allowed=())


@given(st.from_regex(r"https?://[!-~]{1,40}", fullmatch=True))
def test_a_url_that_is_accepted_can_be_called(url: str) -> None:
    try:
        _, host, port = url_guard.parse_url(url, allowed=())
    except InvalidInput:
        return
    called = httpx.URL(url).copy_with(host="93.184.216.34")
    assert (called.port or {"http": 80, "https": 443}[called.scheme]) == port
    assert host.encode("idna")


def test_the_port_defaults_to_that_of_the_scheme() -> None:
    assert url_guard.parse_url("https://example.org/x", allowed=()) == ("https", "example.org", 443)
    assert url_guard.parse_url("http://example.org:81/", allowed=())[2] == 81


def test_a_host_with_any_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the name server is replaced."""

    def answer(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(UrlNotAllowed, match=r"resolves to 169\.254\.169\.254, which is not"):
        url_guard.resolve("rebind.example.org", 80, allowed=())
