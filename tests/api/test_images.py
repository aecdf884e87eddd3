"""Pictures in requests: data URIs are read, and nothing is fetched."""

from __future__ import annotations

import hashlib

import pytest

from modules.api.images import read_image
from modules.chat.errors import ImageRefused
from modules.core.errors import OptionError, Unsupported
from tests.support.pictures import data_uri, picture

WHERE = "messages[0].content[1]"


def test_a_data_uri_is_read_as_an_object_or_a_text(subtests: pytest.Subtests) -> None:
    data = picture("JPEG")
    uri = data_uri(data, "jpeg")
    for form in (uri, {"url": uri}, {"url": uri, "detail": "low"}, {"url": uri.replace(";base64", ";x=y;base64")}):
        with subtests.test(str(form)[:40]):
            facts, read = read_image(WHERE, form)
            assert (read, facts.id, facts.format) == (data, hashlib.sha256(data).hexdigest(), "jpeg")


def test_addresses_of_files_elsewhere_are_refused_by_name(subtests: pytest.Subtests) -> None:
    for address in ("http://127.0.0.1/x.png", "https://example.org/x", "file:///etc/passwd", "FTP://x", "//x:y"):
        with subtests.test(address):
            with pytest.raises((Unsupported, OptionError), match=r"messages\[0\]\.content\[1\]\.image_url") as refusal:
                read_image(WHERE, {"url": address})
            assert refusal.value.status == 400
    with pytest.raises(Unsupported, match=r"addresses \(https:\) are not fetched"):
        read_image(WHERE, {"url": "https://example.org/x.png"})


def test_what_is_no_data_uri_is_named(subtests: pytest.Subtests) -> None:
    for wrong in (None, 5, {}, {"url": None}, "", "data:,", "data:image/png;base64,!!", "data:image/png,plain", "abc"):
        with subtests.test(str(wrong)), pytest.raises(OptionError, match="expected a data URI such as"):
            read_image(WHERE, wrong)


def test_a_refused_picture_is_named() -> None:
    with pytest.raises(ImageRefused, match=r"^messages\[0\]\.content\[1\]: The image .* not a PNG, JPEG or WebP"):
        read_image(WHERE, data_uri(b"GIF89a"))
    with pytest.raises(ImageRefused, match="more than 20 MB"):
        read_image(WHERE, "data:image/png;base64," + "A" * 26_666_680)
