"""Pictures of a conversation: which of them a model gets, and which are left out."""

from __future__ import annotations

import hashlib

from modules.chat.images import MAX_IMAGES
from modules.chat.pictures import path_messages
from modules.conversations.conversation import Attachment, ChatMessage
from modules.core.image_marks import mark
from tests.support.pictures import picture

RED, BLUE = picture(color=(200, 0, 0)), picture("JPEG", color=(0, 0, 200))
BLOBS = {hashlib.sha256(data).hexdigest(): data for data in (RED, BLUE)}


def attached(data: bytes, name: str = "photo") -> Attachment:
    return Attachment(name, "image", hashlib.sha256(data).hexdigest(), len(data))


def message(text: str, *files: Attachment, role: str = "user") -> ChatMessage:
    return ChatMessage("id", "", role, text, attachments=files)


def test_a_model_that_reads_pictures_gets_them_before_the_text_and_each_file_once() -> None:
    notes = Attachment("notes.txt", "text", "", 5, "apple")
    path = [
        message("Two?", attached(RED), notes, attached(BLUE)),
        message("Yes.", role="assistant"),
        message("", attached(RED)),
    ]
    sent = path_messages(path, BLOBS.get)
    first, second, third = (one["content"] for one in sent.messages)
    assert first == f"{mark(0)}{mark(1)}notes.txt:\n```\napple\n```\n\nTwo?"
    assert (second, third) == ("Yes.", mark(0))
    assert [image.data for image in sent.images] == [RED, BLUE] and sent.left_out == 0


def test_a_model_that_reads_text_gets_the_text_and_it_is_known_how_many_pictures_are_missing() -> None:
    sent = path_messages([message("What?", attached(RED), attached(BLUE)), message("Tell me.")], None)
    assert [one["content"] for one in sent.messages] == ["What?", "Tell me."]
    assert (sent.images, sent.left_out) == ((), 2)


def test_missing_pictures_and_those_in_other_formats_are_left_out() -> None:
    gif = b"GIF89a" + bytes(20)
    blobs = {**BLOBS, hashlib.sha256(gif).hexdigest(): gif}
    path = [message("All?", attached(gif), attached(b"gone"), attached(BLUE))]
    sent = path_messages(path, blobs.get)
    assert ([image.data for image in sent.images], sent.left_out) == ([BLUE], 2)
    assert sent.messages[0]["content"] == f"{mark(0)}All?"


def test_of_too_many_pictures_the_last_ones_are_sent() -> None:
    path = [message(f"{number}", attached(RED), attached(BLUE)) for number in range(MAX_IMAGES // 2 + 1)]
    sent = path_messages([message("first", attached(RED)), *path], BLOBS.get)
    assert sent.left_out == 3
    assert [one["content"] for one in sent.messages][:3] == ["first", "0", f"{mark(0)}{mark(1)}1"]
