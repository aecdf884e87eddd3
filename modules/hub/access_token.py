"""The user's Hugging Face access token, and the hosts that may receive it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from modules.hub.endpoint_url import HUGGING_FACE, host_of, is_loopback, origin_of
from modules.hub.errors import BadToken

_SECRET = re.compile(r"[!-~]{1,1000}")


@dataclass(frozen=True)
class AccessToken:
    """`secret` is sent only to `hosts`, such as "huggingface.co": over https, or over http to this machine.

    Raises BadToken if `secret` contains characters that cannot occur in a token.
    """

    secret: str = field(repr=False)
    hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not _SECRET.fullmatch(self.secret):
            raise BadToken()

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> AccessToken | None:
        """Return the token in HF_TOKEN, for huggingface.co only. Raises BadToken."""
        secret = environment.get("HF_TOKEN", "").strip()
        return AccessToken(secret, frozenset({host_of(HUGGING_FACE)})) if secret else None

    def may_be_sent_to(self, url: str) -> bool:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        return safe and host_of(url) in self.hosts

    def may_follow_redirect(self, source: str, target: str) -> bool:
        """Whether a redirect from mirror URL `source` to `target` may carry the token.

        The request to `source` itself need not have carried it.
        """
        same = origin_of(source) == origin_of(target)
        return (same or origin_of(target) == HUGGING_FACE) and self.may_be_sent_to(target)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}
