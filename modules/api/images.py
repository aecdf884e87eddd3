"""Pictures in requests: only data URIs, whose content is in the request itself.

The server fetches nothing for a client: an address could be one that only the server reaches (SSRF).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from modules.chat.errors import ImageRefused
from modules.chat.images import ImageFacts, check_image, check_image_size
from modules.core.errors import OptionError, Unsupported, Words

_DATA_URI = re.compile(r"data:(?P<type>[-\w.+/]*)(;[-\w.]+=[^;,]*)*;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_EXPECTED: Words = {"en": "a data URI such as data:image/png;base64,…", "zh": "形如 data:image/png;base64,… 的数据 URI"}
_MAX_SHOWN = 40


def read_image(where: str, image_url: object) -> tuple[ImageFacts, bytes]:
    """Return the picture in the `image_url` of a part of a message, and the content of its file.

    `where` is the path of the part in the request. Raises Unsupported for the address of a file elsewhere, OptionError
    for what is no data URI, and ImageRefused.
    """
    address = image_url.get("url") if isinstance(image_url, Mapping) else image_url
    if not isinstance(address, str):
        raise OptionError(f"{where}.image_url", _shown(address), _EXPECTED)
    found = _DATA_URI.match(address)
    if found is None:
        raise _refusal(where, address)
    try:
        check_image_size((len(address) - found.end()) * 3 // 4 - 2)
        data = base64.b64decode(address[found.end() :], validate=True)
        return check_image(data), data
    except (binascii.Error, ValueError):
        raise OptionError(f"{where}.image_url", _shown(address), _EXPECTED) from None
    except ImageRefused as error:
        raise ImageRefused(error.reason, where) from None


def _refusal(where: str, address: str) -> Unsupported | OptionError:
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[0].lower() == "data":
        return OptionError(f"{where}.image_url", _shown(address), _EXPECTED)
    return Unsupported(
        {
            "en": f"{where}.image_url: addresses ({scheme[0]}:) are not fetched. "
            "Send the image itself, as data:image/png;base64,…",
            "zh": f"{where}.image_url：不会下载地址（{scheme[0]}:）指向的图片。"
            "请以 data:image/png;base64,… 的形式直接发送图片。",
        }
    )


def _shown(address: Any) -> str:
    text = str(address)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
