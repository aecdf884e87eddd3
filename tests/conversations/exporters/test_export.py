"""Exports have a name, a type and a content for each format."""

from __future__ import annotations

import json
import re

import pytest

from modules.conversations.blobs import BlobStore
from modules.conversations.errors import UnknownExportFormat
from modules.conversations.exporters.export import FORMATS, export
from modules.conversations.importers.detect import import_file
from tests.conversations.exporters.conversations import reader, with_attachments
from tests.conversations.importers.samples import only, own, texts

NOTHING = reader(BlobStore(None))


def test_every_format_but_markdown_can_be_imported_again(subtests: pytest.Subtests) -> None:
    conversation = own()
    for format in FORMATS[:3]:
        with subtests.test(format):
            file = export(conversation, format, NOTHING)
            assert file.media_type == "application/json"
            assert texts(only(import_file(file.name, file.data))) == texts(conversation)


def test_the_original_gets_pairs_under_a_name_of_its_own_kind() -> None:
    file = export(own(), "original", NOTHING)
    assert re.fullmatch(r"20240503-\d\d-\d\d-\d\d\.json", file.name)
    assert json.loads(file.data)["internal"] == [
        ["What is a goose?", "<think>\nOne.\n\n> Two.\n</think>\n\nA bird.\n\n```\ncode\n```"],
        ["多少只？", "三只。"],
    ]


def test_names_are_safe_on_every_system() -> None:
    conversation = own()
    names = {"Geese 鹅": "Geese 鹅.md", 'a/b\\c:"?.': "a b c.md", "...": "conversation.md", "x" * 200: "x" * 80 + ".md"}
    for title, name in names.items():
        conversation.title = title
        assert export(conversation, "md", NOTHING).name == name


def test_missing_images_do_not_prevent_an_export(subtests: pytest.Subtests) -> None:
    conversation = with_attachments(BlobStore(None))
    for format in FORMATS:
        with subtests.test(format):
            assert export(conversation, format, NOTHING).data


def test_texts_that_are_not_unicode_are_replaced(subtests: pytest.Subtests) -> None:
    conversation = own()
    conversation.add("user", "half \ud800")
    for format in FORMATS:
        with subtests.test(format):
            assert b"half" in export(conversation, format, NOTHING).data


def test_unknown_formats_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownExportFormat) as caught:
        export(own(), "pdf", NOTHING)
    assert str(caught.value) == "There is no export format 'pdf'. Use one of: json, original, openwebui, openai, md."
