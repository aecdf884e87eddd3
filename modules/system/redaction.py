"""Leave secrets out of texts that people show to others, such as logs and bug reports."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "••••"
MIN_LENGTH = 4
"""Shorter secrets are not searched for: they occur in ordinary words."""

_TOKENS = re.compile(
    r"""\b(?:hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)
    | (?<=[Bb]earer\ )[^\s"',]+
    | (?<=://)[^\s/:@"']+:[^\s/@"']+(?=@)
    """,
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""((?:api|admin|access)[-_]?(?:key|token)|hf_token|gradio[-_]auth|password|passwd|secret|authorization)
    (["']?\s*[:=]\s*) ("[^"\n]*"|'[^'\n]*'|[^\s,;"'&]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_FLAG = re.compile(r"""(--(?:api[-_]key|admin[-_]key|gradio[-_]auth)(?:=|\s+))((?:"[^"\n]*"|'[^'\n]*'|[^\s"'])+)""")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets`, and without what looks like a token, a key or a password in an address."""
    for secret in sorted((known for known in secrets if len(known) >= MIN_LENGTH), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _TOKENS.sub(HIDDEN, text)
    text = _FLAG.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(rf"\1\2{HIDDEN}", text)
