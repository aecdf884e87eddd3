"""Markdown shows the path with titles, times, thoughts and whole code blocks."""

from __future__ import annotations

import time

import pytest

from modules.conversations.blobs import BlobStore
from modules.conversations.conversation import Conversation
from modules.conversations.exporters.markdown import close_fences, to_markdown
from tests.conversations.exporters.conversations import with_attachments
from tests.conversations.importers.samples import own

OPEN = {
    "```\ncode": "```",
    "````md\n```\ncode\n```": "````",
    "~~~\n```": "~~~",
    "  ```py\n``": "```",
    "```\na\n``` b": "```",
}
CLOSED = (
    "",
    "text",
    "```\ncode\n```",
    "````\n```\n````",
    "~~~\n```\n~~~",
    "`a` ``b``",
    "```a``` b",
    "    ```",
    "```\nx\n`````  ",
)


def test_the_shown_path_is_written_with_times_and_a_folded_thought() -> None:
    conversation = own()
    clock = [time.strftime("%Y-%m-%d %H:%M", time.localtime(message.created)) for message in conversation.path()]
    assert to_markdown(conversation, "en") == (
        "# Geese 鹅\n\n## System\n\n> Be brief.\n\n"
        f"## User · {clock[0]}\n\nWhat is a goose?\n\n"
        f"## Assistant · {clock[1]}\n\n"
        "<details>\n<summary>Thought for 1.5 s</summary>\n\n> One.\n>\n> > Two.\n\n</details>\n\n"
        "A bird.\n\n```\ncode\n```\n\n"
        f"## User · {clock[2]}\n\n多少只？\n\n## Assistant · {clock[3]}\n\n三只。\n"
    )
    assert "## 助手" in to_markdown(conversation, "zh") and "思考了 1.5 秒" in to_markdown(conversation, "zh")


def test_open_code_blocks_are_closed(subtests: pytest.Subtests) -> None:
    for text, fence in OPEN.items():
        with subtests.test(text):
            assert close_fences(text) == f"{text}\n{fence}"
    for text in CLOSED:
        with subtests.test(text):
            assert close_fences(text) == text


def test_attachments_are_quoted_and_images_named() -> None:
    text = to_markdown(with_attachments(BlobStore(None)), "en")
    assert "*Image: goose.png*\n\nbirds.txt:\n```\ngoose, swan\n```\n\nLook at these:" in text


def test_titles_names_and_thoughts_cannot_break_out() -> None:
    conversation = Conversation("x", "# <b>*Title*</b>\n")
    conversation.add("assistant", "", reasoning="a\n</details>\n```", extra={"name": "Mr *X*"}, created=0.0)
    text = to_markdown(conversation, "en")
    assert text.startswith("# \\# \\<b\\>\\*Title\\*\\</b\\>\n")
    assert "## Mr \\*X\\*\n" in text
    assert text.count("</details>") == 1
    assert "> ```\n> ```\n" in text
