"""Where a request may go: checked as it is written, and again after the name was resolved (PR-05, PR-06)."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from opsctl.errors import OpsError

_LABEL = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42"),
    )
)
"""Of clouds that do not have it at a link-local address."""

_HIDING = tuple(
    map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"))
)
"""IPv6 that stands for an IPv4 address: compatible, mapped, NAT64, Teredo, 6to4."""

_LOOPBACK6 = ipaddress.IPv6Address("::1")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS = {"https": 443, "http": 80}


def host_of(url: str) -> str:
    """Host in lower case, and the port where it is not the usual one: whom a key is for."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        return host if parts.port in (None, _PORTS.get(parts.scheme)) else f"{host}:{parts.port}"
    except ValueError:
        return ""


def check_base_url(name: str, url: str) -> None:
    """Refuse an address that is not plainly what it seems. Raises `bad_config`."""
    if len(url) > 1000 or not re.fullmatch(r"[!-~]+", url) or any(one in url for one in "\\?#@%"):
        raise _refused(name, "base_url has no user, query, fragment, blanks or escapes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(name, f"base_url cannot be read: {error}") from None
    if parts.scheme not in _PORTS:
        raise _refused(name, "base_url begins with https:// (or http:// on this machine)")
    host = parts.hostname or ""
    literal = _literal(host)
    is_name = "[" not in parts.netloc and _HOST.fullmatch(host) and not _is_disguised(host)
    if literal is None and not is_name:
        raise _refused(name, f"{host[:80]!a} is not a plain host name or address")
    if port == 0 or parts.netloc.endswith(":"):
        raise _refused(name, "base_url has a port that is none")
    if host in _METADATA_NAMES:
        raise _refused(name, f"{host} is the metadata service of a cloud")
    if literal is not None:
        check_address(name, literal, is_http=parts.scheme == "http")
    elif parts.scheme == "http" and host != "localhost":
        raise _refused(name, "http:// is for this machine only; use https://")


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_disguised(host: str) -> bool:
    """Numbers that a resolver takes for an address, though none is written: 0x7f.1, 2130706433, 0177.0.0.1."""
    last = host.rpartition(".")[2]
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last, re.IGNORECASE) is not None


def check_address(name: str, address: _Address, *, is_http: bool) -> None:
    """Refuse an address that no model lives at. Raises `bad_config`."""
    if address == _LOOPBACK6 or (address.version == 4 and address.is_loopback):
        return
    if any(address.version == net.version and address in net for net in _HIDING):
        raise _refused(name, f"{address} hides an IPv4 address")
    is_odd = address.is_link_local or address.is_unspecified or address.is_multicast or address in _METADATA
    if is_odd or (isinstance(address, ipaddress.IPv4Address) and (address.is_reserved or int(address) >> 24 == 0)):
        raise _refused(name, f"{address} is not an address that a provider has")
    if is_http:
        raise _refused(name, "http:// is for this machine only; use https://")


def resolved(name: str, host: str, port: int, *, is_http: bool) -> list[str]:
    """The addresses of a host, each of them checked, IPv4 first. Raises `bad_config`, `provider_offline`."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no name"
        raise OpsError("provider_offline", f"{host} cannot be resolved: {reason}") from None
    found = dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows)
    for address in found:
        check_address(name, address, is_http=is_http)
    if not found:
        raise OpsError("provider_offline", f"{host} has no address")
    return [str(one) for one in sorted(found, key=lambda one: one.version)][:4]


def _refused(name: str, message: str) -> OpsError:
    hint = "opsctl provider path names the file; mend base_url there"
    return OpsError("bad_config", f"provider {name[:60]!a}: {message}", hint=hint)
