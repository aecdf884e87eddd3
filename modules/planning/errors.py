"""Errors of requests for a load."""

from __future__ import annotations

from dataclasses import dataclass

from modules.core.errors import WebUIError


@dataclass(eq=False)
class SetByFilesOnly(WebUIError):
    """An option of `Option.set_by` "files" in a form."""

    status = 403
    template = {
        "en": "{option} can be set by the flag --{flag} or in a file only, not by the page or the API.",
        "zh": "{option} 只能通过参数 --{flag} 或文件设置，不能从页面或 API 设置。",
    }
    option: str
    flag: str
