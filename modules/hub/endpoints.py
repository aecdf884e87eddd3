"""The mirrors there are to choose from, and which of them may see the user's access token."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit, urlunsplit

from modules.core.errors import Words
from modules.hub.errors import BadEndpoint, BadToken

MIRROR = "https://hf-mirror.com"
HUGGING_FACE = "https://huggingface.co"

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_PORTS = {"http": 80, "https": 443}
_SECRET = re.compile(r"[!-~]{1,1000}")

# What a proxy such as Clash gives every name as its address: it is no one's network, and means nothing of the target.
_STANDS_IN = ipaddress.ip_network("198.18.0.0/15")

_SCHEME: Words = {"en": "It must begin with https:// or http://.", "zh": "须以 https:// 或 http:// 开头。"}
_CREDENTIALS: Words = {"en": "It must not hold a name and password.", "zh": "其中不能包含用户名和密码。"}
_PATH: Words = {"en": "After the host only a plain path may follow.", "zh": "主机名之后只能是普通路径。"}
_NO_HOST: Words = {"en": "Its host or port is not possible.", "zh": "主机名或端口无效。"}


def endpoints(flag: str = "", environment: str = "", settings: Iterable[str] = ()) -> tuple[str, ...]:
    """The mirrors to choose from, the one to use first: the flag's, that of HF_ENDPOINT, those of the settings, then
    hf-mirror.com and huggingface.co. BadEndpoint."""
    wished = [each for each in (flag, environment, *settings) if each.strip()]
    return tuple(dict.fromkeys([*map(endpoint, wished), MIRROR, HUGGING_FACE]))


def endpoint(text: str) -> str:
    """`text` as scheme, host, port unless it is the usual one, and a path perhaps; without a slash at its end.

    A host alone means https. BadEndpoint.
    """
    wish = text.strip()
    shown = re.sub(r"(?<=//)[^/]*@", "…@", wish)[:200]
    if any(each.isspace() or not each.isprintable() for each in wish):  # urlsplit drops some of them
        raise BadEndpoint(shown, _NO_HOST)
    try:
        url = urlsplit(wish if "://" in wish else f"https://{wish}")
        port = url.port
    except ValueError:
        raise BadEndpoint(shown, _NO_HOST) from None
    path = url.path.rstrip("/")
    if url.scheme not in _PORTS:
        raise BadEndpoint(shown, _SCHEME)
    if "@" in url.netloc:
        raise BadEndpoint(shown, _CREDENTIALS)
    if url.query or url.fragment or not _PREFIX.fullmatch(path) or set(path.split("/")) & {".", ".."}:
        raise BadEndpoint(shown, _PATH)
    if not _is_host(url.hostname or "") or port == 0:
        raise BadEndpoint(shown, _NO_HOST)
    return urlunsplit((url.scheme, _netloc(url), path, "", ""))


def host(url: str) -> str:
    """How the server of `url` is called in a sentence: its name, and its port unless it is the usual one."""
    return _netloc(urlsplit(url))


def origin(url: str) -> str:
    """What must be equal for two addresses to be of one server, as browsers see it. ValueError for a bad port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_netloc(parts)}"


def _netloc(url: SplitResult) -> str:
    name = (url.hostname or "").rstrip(".")
    name = f"[{name}]" if ":" in name else name
    return name if url.port in (None, _PORTS.get(url.scheme)) else f"{name}:{url.port}"


def _is_host(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return bool(_HOST.fullmatch(name))


# -- addresses within ------------------------------------------------------------------------------------------------


def is_inside(name: str, ask: bool = True) -> bool:
    """Whether the host `name` is this machine or of a private network, by any of its addresses.

    With `ask`, a name is looked up; one that has no address is not inside.
    """
    name = name.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    return any(map(_within, _addresses(name, ask)))


def is_loopback(name: str) -> bool:
    return name == "localhost" or any(address.is_loopback for address in _addresses(name, ask=False))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(name: str, ask: bool) -> list[_Address]:
    with contextlib.suppress(ValueError):
        return [_plain(ipaddress.ip_address(name.partition("%")[0]))]
    with contextlib.suppress(OSError):  # 127.1, 0x7f000001 and the like, as every C library reads them
        return [ipaddress.IPv4Address(socket.inet_aton(name))]
    if not ask:
        return []
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [_plain(ipaddress.ip_address(str(each[4][0]).partition("%")[0])) for each in found]


def _plain(address: _Address) -> _Address:
    """An IPv4 address that is written as an IPv6 one, as itself."""
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return inner or address


def _within(address: _Address) -> bool:
    public = address.is_global and not address.is_multicast
    return not public and not (address.version == 4 and address in _STANDS_IN)


# -- the token -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """`secret` goes to the `hosts` the user has ticked, such as "huggingface.co", over https; over http only to this
    machine. BadToken."""

    secret: str = field(repr=False)
    hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not _SECRET.fullmatch(self.secret):
            raise BadToken()

    def goes_to(self, url: str) -> bool:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        return safe and host(url) in self.hosts

    def follows(self, source: str, target: str) -> bool:
        """Whether it goes along a redirect from the mirror `source`, which need not have had it, to `target`."""
        same = origin(source) == origin(target)
        return (same or origin(target) == HUGGING_FACE) and self.goes_to(target)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}
