"""The address of a server that generates, and the key for it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modules.core.errors import OptionError, Words

LONGEST_URL = 2000
_EXPECTED: Words = {
    "en": "an address such as http://127.0.0.1:8000, without a password, a query or a fragment",
    "zh": "形如 http://127.0.0.1:8000 的地址，不含密码、查询参数和片段",
}
_VISIBLE = re.compile(r"[!-~]+")
_KEY_EXPECTED: Words = {"en": "visible ASCII characters only", "zh": "仅含可见的 ASCII 字符"}
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """Where a server is: at `url`, without "/v1" and a final slash, or at the Unix socket `socket`.

    `key` is sent to this origin alone. `ca` is the file of the certificate authority to trust instead of the system's.
    Use `parse` for addresses that people have written. Of a `socket`, `url` gives the Host header and the path.
    """

    url: str = "http://localhost"
    socket: str = ""
    key: str = field(default="", repr=False)
    ca: str = ""

    @staticmethod
    def parse(url: str, key: str = "", ca: str = "") -> Target:
        """Return the target at an address, which may end with "/v1" as those of OpenAI's API do.

        Raises OptionError for "server_url" or "server_key_env".
        """
        if key and not _VISIBLE.fullmatch(key):
            raise OptionError("server_key_env", "***", _KEY_EXPECTED)
        return Target(normalized_url(url), key=key, ca=ca)

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return urlsplit(self.url).netloc

    @property
    def origin(self) -> str:
        """What errors call the server: no path, as it may be a secret."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"{urlsplit(self.url).scheme}://{self.authority}"

    def path(self, path: str) -> str:
        """Return the path of a request to an endpoint such as "/v1/models"."""
        return urlsplit(self.url).path + path


def normalized_url(url: str) -> str:
    """Return an address in one form: lower-case host, no final "/v1" or slash; "http://" where no scheme is given.

    Raises OptionError for "server_url" unless it is an address of HTTP or HTTPS.
    """
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number, or a broken IPv6 address
        raise OptionError("server_url", _shown(url), _EXPECTED) from None
    is_plain = _VISIBLE.fullmatch(text) and not parts.query and not parts.fragment and "@" not in parts.netloc
    if not is_plain or len(text) > LONGEST_URL or parts.scheme not in _PORTS or port == 0 or not _is_host(host):
        raise OptionError("server_url", _shown(url), _EXPECTED)
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        authority += f":{port}"
    return f"{parts.scheme}://{authority}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return False
        return True
    return re.fullmatch(r"[a-z0-9_](?:[a-z0-9._-]{0,252})", host) is not None


def _shown(url: str) -> str:
    """Return an address without a password that it may contain."""
    return re.sub(r"^(.*//)?[^/@]*@", r"\1***@", url[:200])
