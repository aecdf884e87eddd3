"""An export in our own format comes back equal, with its attachments."""

from __future__ import annotations

import pytest

from modules.conversations.blobs import BlobStore
from modules.conversations.exporters import own as module
from modules.conversations.exporters.own import to_own
from modules.conversations.importers.detect import import_file
from tests.conversations.exporters.conversations import reader, with_attachments
from tests.conversations.importers.samples import only, own


def test_all_branches_and_what_is_shown_come_back_equal() -> None:
    conversation = own()
    again = only(import_file("a.json", to_own(conversation, reader(BlobStore(None)))))
    conversation.id = ""
    assert again == conversation


def test_attachments_and_prompts_travel_with_it() -> None:
    blobs = BlobStore(None)
    conversation = with_attachments(blobs)
    prompt = blobs.put(b"<user> What is a goose?")
    conversation.replace(conversation.current, receipt={"prompt": prompt})
    result = import_file("a.json", to_own(conversation, reader(blobs)))
    conversation.id = ""
    assert only(result) == conversation
    assert {sha256: blobs.get(sha256) for sha256 in result.files} == result.files
    assert len(result.files) == 3


def test_attachments_that_are_missing_or_too_large_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobStore(None)
    conversation = with_attachments(blobs)
    assert import_file("a.json", to_own(conversation, reader(BlobStore(None)))).files == {}
    monkeypatch.setattr(module, "MAX_BLOB_BYTES", 15)
    assert list(import_file("a.json", to_own(conversation, reader(blobs))).files.values()) == [b"goose, swan"]
