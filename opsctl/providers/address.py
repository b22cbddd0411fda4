"""Where a request may go: checked as it is written, and again after the name was resolved (PR-05, PR-06)."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from opsctl.errors import OpsError

_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\.?", re.IGNORECASE)
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})
_METADATA = frozenset(
    ipaddress.ip_address(one) for one in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(url: str) -> str:
    """Host, and port where one is written, in lower case."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return ""


def check_base_url(name: str, url: str) -> None:
    """Refuse an address that is not plainly what it seems. Raises `bad_config`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(name, f"base_url cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not url.isascii() or not url.isprintable() or "\\" in url:
        raise _refused(name, "base_url begins with https:// (or http:// on this machine)")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment or "#" in url:
        raise _refused(name, "base_url has no user, query or fragment")
    host = parts.hostname or ""
    literal = _literal(host)
    if literal is None and (not _HOST.fullmatch(host) or _is_disguised(host) or port == 0):
        raise _refused(name, f"{host[:80]!a} is not a plain host name or address")
    if host.rstrip(".").lower() in _METADATA_NAMES:
        raise _refused(name, f"{host} is the metadata service of a cloud")
    if literal is not None:
        check_address(name, literal, is_http=parts.scheme == "http")
    elif parts.scheme == "http" and host.lower() != "localhost":
        raise _refused(name, "http:// is for this machine only; use https://")


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_disguised(host: str) -> bool:
    """Numbers that a resolver takes for an address, though they are not written as one: 0x7f.1, 2130706433, 0177.0.0.1."""
    last = host.rstrip(".").rpartition(".")[2]
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last, re.IGNORECASE) is not None


def check_address(name: str, address: _Address, *, is_http: bool) -> None:
    """Refuse an address that no model lives at. Raises `bad_config`."""
    inner = [address]
    if isinstance(address, ipaddress.IPv6Address):
        hidden = (
            address.ipv4_mapped,
            address.sixtofour,
            address.teredo[1] if address.teredo else None,
            _nat64(address),
        )
        inner += [one for one in hidden if one is not None]
        if len(inner) > 1:
            raise _refused(name, f"{address} hides an IPv4 address")
    if any(one in _METADATA or one.is_link_local or one.is_unspecified or one.is_multicast for one in inner):
        raise _refused(name, f"{address} is not an address that a provider has")
    if isinstance(address, ipaddress.IPv4Address) and (address.is_reserved or int(address) >> 24 == 0):
        raise _refused(name, f"{address} is not an address that a provider has")
    if is_http and not address.is_loopback:
        raise _refused(name, "http:// is for this machine only; use https://")


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def resolved(name: str, host: str, port: int, *, is_http: bool) -> str:
    """An address of the host that was checked. All that it resolves to are. Raises `bad_config`, `provider_offline`."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OpsError("provider_offline", f"{name}: {host} cannot be resolved", cause=reason) from None
    addresses = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
    for address in addresses:
        check_address(name, address, is_http=is_http)
    if not addresses:
        raise OpsError("provider_offline", f"{name}: {host} has no address")
    ordered = sorted(addresses, key=lambda one: one.version)  # local model servers often listen on IPv4 alone
    return str(ordered[0])


def _refused(name: str, message: str) -> OpsError:
    hint = "opsctl provider path names the file; mend base_url there"
    return OpsError("bad_config", f"provider {name[:60]!a}: {message}", hint=hint)
