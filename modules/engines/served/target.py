"""The address of a server that generates, and the key for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modules.core.errors import OptionError, Words
from modules.formats.server_file import checked_url
from modules.formats.server_keys import is_key

_KEY_EXPECTED: Words = {"en": "visible ASCII characters only", "zh": "仅含可见的 ASCII 字符"}
_VERSION = re.compile(r"/v[0-9][0-9a-z]*(/openai)?$")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """The address of a server: `url`, without "/v1" and a final slash, or the Unix socket `socket`.

    `key` is sent to this origin alone. `ca` is the file of the certificate authority to trust instead of the system's.
    Use `parse` for addresses that people have written. Of a `socket`, `url` gives the Host header and the path; errors
    call it by its `name`, if it has one.
    """

    url: str = "http://localhost"
    socket: str = ""
    key: str = field(default="", repr=False)
    ca: str = ""
    name: str = ""

    @staticmethod
    def parse(url: str, key: str = "", ca: str = "") -> Target:
        """Return the target at an address, which may end with "/v1" as those of OpenAI's API do.

        Raises OptionError for "server_url" or "server_key_env".
        """
        if key and not is_key(key):
            raise OptionError("server_key_env", "***", _KEY_EXPECTED)
        return Target(checked_url(url), key=key, ca=ca)

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
        """The name of the server in errors: without the path, which may be a secret."""
        if self.socket:
            return self.name or f"unix:{self.socket}"
        return f"{urlsplit(self.url).scheme}://{self.authority}"

    def path(self, path: str) -> str:
        """Return the path of a request to an endpoint such as "/v1/models".

        An address that names another version, as those of some services do, has that one's endpoints.
        """
        base = urlsplit(self.url).path
        return base + (path.removeprefix("/v1") if _VERSION.search(base) else path)
