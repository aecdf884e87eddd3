"""Messages and sizes as HTML. Names come from files and from the network: everything is escaped."""

from __future__ import annotations

from html import escape

from modules.core.errors import LoaderUnavailable, WebUIError
from modules.ui.locales import Tr

_TAIL = 12
"""Characters at the end of a long name that are always shown."""


def decimal_size(count: int) -> str:
    """Format bytes in powers of 1000 with three digits, as download sites and file managers do: "4.08 GB", "256 B"."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            return f"{count / factor:.{2 if count < 10 * factor else 1 if count < 100 * factor else 0}f} {unit}"
    return f"{count} B"


def shrinkable_name(name: str) -> str:
    """Return `name` as HTML that is shortened in the middle where space is short: the quantization is at the end."""
    head, tail = (name[:-_TAIL], name[-_TAIL:]) if len(name) > 2 * _TAIL else (name, "")
    return f'<span class="tx-name-head">{escape(head)}</span><span class="tx-name-tail">{escape(tail)}</span>'


def info(text: str) -> str:
    """Render a status message; nothing if `text` is empty."""
    return f'<div class="tx-status" role="status">{escape(text)}</div>' if text else ""


def alert(error: WebUIError, language: str, tr: Tr) -> str:
    """Render an error: its first line visible, the library's own message and the rest folded below."""
    first, _, rest = error.say(language).partition("\n")
    more = f"<details><summary>{escape(tr('details'))}</summary><pre>{escape(rest)}</pre></details>" if rest else ""
    install = error.install if isinstance(error, LoaderUnavailable) else ""
    line = f"<p>{escape(tr('install_with'))}<code>{escape(install)}</code></p>" if install else ""
    return f'<div class="tx-status tx-alert" role="alert">{escape(first)}{line}{more}</div>'
