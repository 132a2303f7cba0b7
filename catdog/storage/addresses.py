"""Which hosts a list may lead to: public ones, and those that `--allow-hosts` names.

Lists come from strangers, and the reader of a list is inside a network. A name is looked up once, its
addresses are checked, and the connection goes to one of them, so a name cannot change in between.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from catdog.storage.stores import HOSTS_VARIABLE

if TYPE_CHECKING:
    from yarl import URL


class AddressRefusedError(PermissionError):
    """A URL leads to an address that is not public and not named."""


def refuse_host(url: URL) -> None:
    """Raise if the host of a URL is a refused address; names are checked when they are looked up.

    Raises:
        AddressRefusedError: says what to do.
    """
    host = url.host or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    _judge(host, [host])


class Resolver(AbstractResolver):
    """Looks up names, and refuses those that lead inside the network."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name, all of which are public or named."""
        found = await self._inner.resolve(host, port, family)
        _judge(host, [each["host"] for each in found])
        return found

    async def close(self) -> None:
        """Nothing is held."""


def _judge(host: str, addresses: list[str]) -> None:
    allowed = [
        each.strip() for each in os.environ.get(HOSTS_VARIABLE, "").split(",") if each.strip()
    ]
    if host.lower() in {each.lower() for each in allowed}:
        return
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not _is_public(address) and not any(_within(address, each) for each in allowed):
            raise AddressRefusedError(host)


def _is_public(address: Any) -> bool:
    inner = (
        getattr(address, "ipv4_mapped", None)
        or getattr(address, "sixtofour", None)
        or (getattr(address, "teredo", None) or (None, None))[1]
    )
    if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return _is_public(inner)
    return bool(address.is_global and not address.is_multicast)


def _within(address: Any, allowed: str) -> bool:
    try:
        return address in ipaddress.ip_network(allowed, strict=False)
    except ValueError:
        return False  # a name
