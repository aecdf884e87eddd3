"""Pictures in messages: what is accepted, and where their marks are."""

from __future__ import annotations

import hashlib
import struct

import pytest

from modules.chat import images
from modules.chat.errors import ImageRefused
from modules.chat.images import check_image, has_images, image_part, mark_images, without_images
from modules.chat.message import Message
from modules.core.image_marks import mark
from modules.core.prompt import Image
from tests.support.pictures import picture

RED, BLUE = image_part("red"), image_part("blue")
FILES = {"red": b"r", "blue": b"b"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_the_facts_of_a_picture_are_known_from_its_header() -> None:
    data = picture("WEBP", 30, 40)
    assert check_image(data) == images.ImageFacts(hashlib.sha256(data).hexdigest(), "webp", 30, 40)


def test_what_is_too_large_or_no_picture_is_refused_in_words() -> None:
    huge = bytearray(picture())
    huge[16:24] = struct.pack(">II", 5001, 5000)
    with pytest.raises(ImageRefused, match="5001 × 5000 pixels, and at most 25 million"):
        check_image(bytes(huge))
    with pytest.raises(ImageRefused, match="more than 20 MB"):
        check_image(picture() + bytes(20_000_000))
    with pytest.raises(ImageRefused, match="not a PNG, JPEG or WebP file"):
        check_image(b"<svg/>")
    assert "2500 万像素" in ImageRefused({"zh": "超过 2500 万像素的上限", "en": ""}, "图.png").say("zh")


def test_each_picture_becomes_a_mark_where_it_stands() -> None:
    messages: list[Message] = [
        {"role": "user", "content": [text("one"), text("two"), RED, text("three"), BLUE]},
        {"role": "assistant", "content": "a", "tool_calls": []},
        {"role": "user", "content": [RED]},
    ]
    marked, pictures = mark_images(messages, FILES)
    contents = [message["content"] for message in marked]
    assert contents == [f"one\ntwo{mark(0)}three{mark(1)}", "a", mark(0)]
    assert pictures == (Image("red", b"r"), Image("blue", b"b"))
    assert has_images(messages) and not has_images(marked)


def test_texts_beside_a_picture_are_escaped_at_any_depth() -> None:
    call = {"function": {"name": "f", "arguments": {"x": [mark(0), 7, None]}}}
    messages: list[Message] = [
        {"role": "user", "content": [text(mark(0)), RED], "name": mark(0)},
        {"role": "assistant", "content": mark(0), "reasoning_content": mark(0), "tool_calls": [call]},
    ]
    marked, _ = mark_images(messages, FILES)
    assert str(marked).count(repr(mark(0))[1:-1]) == 1
    assert marked[1]["tool_calls"][0]["function"]["arguments"]["x"][1:] == [7, None]


def test_a_call_without_text_stays_one_beside_a_picture() -> None:
    call: Message = {"role": "assistant", "content": None, "tool_calls": []}
    asked: Message = {"role": "user", "content": [image_part(next(iter(FILES)))]}
    assert mark_images([asked, call], FILES)[0][1] == call


def test_messages_without_pictures_are_unchanged() -> None:
    messages: list[Message] = [{"role": "user", "content": [text(mark(0))]}]
    assert mark_images(messages, {}) == (messages, ())


def test_a_model_without_eyes_gets_the_text_alone() -> None:
    messages: list[Message] = [{"role": "user", "content": [text("one"), RED, text("two")]}]
    assert without_images(messages) == [{"role": "user", "content": "onetwo"}]


def test_too_many_pictures_are_refused() -> None:
    messages: list[Message] = [{"role": "user", "content": [RED] * (images.MAX_IMAGES + 1)}]
    with pytest.raises(ImageRefused, match="more than 32 images"):
        mark_images(messages, FILES)
