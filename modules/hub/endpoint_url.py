"""Endpoint URLs of hub mirrors: parsing, comparison by origin, and detection of private network addresses."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit, urlunsplit

from modules.core.errors import Words
from modules.hub.errors import BadEndpoint

HF_MIRROR = "https://hf-mirror.com"
HUGGING_FACE = "https://huggingface.co"
DEFAULT_ENDPOINTS = (HF_MIRROR, HUGGING_FACE)

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Proxies such as Clash resolve every name to an address in this range ("fake IP"), so it says nothing about the target.
_FAKE_IP_RANGE = ipaddress.ip_network("198.18.0.0/15")

_SCHEME: Words = {"en": "It must begin with https:// or http://.", "zh": "须以 https:// 或 http:// 开头。"}
_CREDENTIALS: Words = {"en": "It must not contain a user name and password.", "zh": "其中不能包含用户名和密码。"}
_PATH: Words = {"en": "Only a plain path may follow the host.", "zh": "主机名之后只能是普通路径。"}
_BAD_HOST: Words = {"en": "Its host or port is not valid.", "zh": "主机名或端口无效。"}


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of endpoints and drop duplicates. Raises BadEndpoint."""
    return tuple(dict.fromkeys(parse_endpoint(item) for item in text.split(",") if item.strip()))


def parse_endpoint(text: str) -> str:
    """Normalize an endpoint to scheme://host[:port][/path] without a trailing slash.

    The scheme defaults to https, and a default port is dropped. Raises BadEndpoint.
    """
    text = text.strip()
    shown = re.sub(r"(?<=//)[^/]*@", "…@", text)[:200]
    # urlsplit silently drops some control characters.
    if any(char.isspace() or not char.isprintable() for char in text):
        raise BadEndpoint(shown, _BAD_HOST)
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        port = url.port
    except ValueError:
        raise BadEndpoint(shown, _BAD_HOST) from None
    path = url.path.rstrip("/")
    if url.scheme not in _DEFAULT_PORTS:
        raise BadEndpoint(shown, _SCHEME)
    if "@" in url.netloc:
        raise BadEndpoint(shown, _CREDENTIALS)
    if url.query or url.fragment or not _PREFIX.fullmatch(path) or set(path.split("/")) & {".", ".."}:
        raise BadEndpoint(shown, _PATH)
    if not _is_valid_host(url.hostname or "") or port == 0:
        raise BadEndpoint(shown, _BAD_HOST)
    return urlunsplit((url.scheme, _netloc(url), path, "", ""))


def host_of(url: str) -> str:
    """Return the host of `url`, with its port unless that is the default one."""
    return _netloc(urlsplit(url))


def origin_of(url: str) -> str:
    """Return the origin of `url` as browsers define it: scheme, host and port. Raises ValueError for a bad port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_netloc(parts)}"


def _netloc(url: SplitResult) -> str:
    name = (url.hostname or "").rstrip(".")
    name = f"[{name}]" if ":" in name else name
    return name if url.port in (None, _DEFAULT_PORTS.get(url.scheme)) else f"{name}:{url.port}"


def _is_valid_host(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return bool(_HOST.fullmatch(name))


# -- private networks ------------------------------------------------------------------------------------------------


def is_private_host(name: str, resolve: bool = True) -> bool:
    """Whether any address of host `name` belongs to this machine or to a private network.

    With `resolve`, names are looked up; a name that does not resolve is not private.
    """
    name = name.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    return any(map(_is_private, _addresses(name, resolve)))


def is_loopback(name: str) -> bool:
    """Whether host `name` is this machine, judged without looking it up."""
    return name == "localhost" or any(address.is_loopback for address in _addresses(name, resolve=False))


_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(name: str, resolve: bool) -> list[_IPAddress]:
    with contextlib.suppress(ValueError):
        return [_unmapped(ipaddress.ip_address(name.partition("%")[0]))]
    with contextlib.suppress(OSError):  # 127.1, 0x7f000001 and the like, which every C library accepts
        return [ipaddress.IPv4Address(socket.inet_aton(name))]
    if not resolve:
        return []
    try:
        results = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [_unmapped(ipaddress.ip_address(str(result[4][0]).partition("%")[0])) for result in results]


def _unmapped(address: _IPAddress) -> _IPAddress:
    """Convert an IPv4-mapped IPv6 address to IPv4."""
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return inner or address


def _is_private(address: _IPAddress) -> bool:
    public = address.is_global and not address.is_multicast
    return not public and not (address.version == 4 and address in _FAKE_IP_RANGE)
