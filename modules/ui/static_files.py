"""Serve the scripts and style sheets of `modules/ui/static`, and write the tags that load them."""

from __future__ import annotations

import hashlib
import json
import re
from html import escape
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

from modules.core.errors import LANGUAGES
from modules.ui.locales import KEYS, translator

FOLDER = Path(__file__).with_name("static")
ENTRY_SCRIPTS = ("shell.js", "chat.js", "characters.js", "notebook.js", "training.js")
"""The scripts that run by themselves. All others are modules that these import."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FONT_SIZE = re.compile(r"(?<![\w-])(font(?:-size)?:[^;{}]*?)(?<![\w.-])(\d+(?:\.\d+)?)px")
_USED_KEY = re.compile(r'\btr\(\s*"(\w+)"')
_LITERAL = re.compile(r'"(\w+)"')


def scale_text(css: str) -> str:
    """Return a style sheet whose sizes of text, in pixels, grow with the size that the user has chosen.

    Sizes of 16 px never shrink: iOS zooms into smaller fields.
    """
    return _FONT_SIZE.sub(lambda size: f"{size[1]}{scaled(size[2])}", css)


def scaled(pixels: str) -> str:
    """Return a size of text that is `pixels` at the normal size; --tx-text-scale is defined in shell.css."""
    size = f"calc({pixels}px * var(--tx-text-scale))"
    return f"max(16px, {size})" if pixels == "16" else size


def _served(path: Path) -> bytes:
    return scale_text(path.read_text(encoding="utf-8")).encode() if path.suffix == ".css" else path.read_bytes()


class StaticFiles:
    """The files of `folder`, read once. Their address contains a hash of all of them, so browsers may keep them.

    Scripts are ES modules and import each other by relative addresses. They show texts by `tr("key")` of texts.js: the
    page contains only the texts whose keys are literals somewhere in the scripts.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {path.name: _served(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES}
        self.version = hashlib.sha256(repr(self._files).encode()).hexdigest()[:16]
        scripts = b"\n".join(self._files[name] for name in self._names(".js")).decode()
        self._text_keys = sorted({*_USED_KEY.findall(scripts), *KEYS.intersection(_LITERAL.findall(scripts))})
        self._tags = {language: self._tags_in(language) for language in LANGUAGES}

    def _names(self, suffix: str) -> list[str]:
        return [name for name in self._files if name.endswith(suffix)]

    def add_route(self, server: FastAPI) -> None:
        """Answer `GET /ui/<version>/<file>`. Any other version is not found, as its files may not fit the page."""

        @server.get("/ui/{version}/{name}", include_in_schema=False)
        def static_file(version: str, name: str) -> Response:
            if version != self.version or name not in self._files:
                return Response(status_code=404)
            headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
            return Response(self._files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    def tags(self, language: str) -> str:
        """Return the elements of <head> that load all style sheets and scripts, with the texts in one language."""
        return self._tags[language]

    def _tags_in(self, language: str) -> str:
        base, tr = f"/ui/{self.version}", translator(language)
        texts = json.dumps({key: tr(key) for key in self._text_keys}, ensure_ascii=False).replace("<", "\\u003c")
        styles = [f'<link rel="stylesheet" href="{base}/{escape(name)}">' for name in self._names(".css")]
        modules = [name for name in self._names(".js") if name not in ENTRY_SCRIPTS]
        preloads = [f'<link rel="modulepreload" href="{base}/{escape(name)}">' for name in modules]
        entries = [f'<script type="module" src="{base}/{name}"></script>' for name in ENTRY_SCRIPTS]
        return "".join(
            [f'<script type="application/json" id="tx-texts">{texts}</script>', *styles, *preloads, *entries]
        )
