"""An export in OpenAI's shape is a request that the API takes, and comes back through our import."""

from __future__ import annotations

from modules.api.schemas import ChatRequest
from modules.conversations.blobs import BlobStore
from modules.conversations.exporters.openai import to_openai
from modules.conversations.importers.detect import import_file
from tests.conversations.exporters.conversations import reader, with_attachments
from tests.conversations.importers.samples import PNG, PNG_URI, json_bytes, only

BLOBS = BlobStore(None)


def test_pictures_are_data_uris_and_texts_of_files_belong_to_their_message() -> None:
    conversation = with_attachments(BLOBS)
    *_, question, answer = to_openai(conversation, reader(BLOBS))["messages"]
    picture, text = question["content"]
    assert picture == {"type": "image_url", "image_url": {"url": PNG_URI}}
    assert text == {"type": "text", "text": "birds.txt:\n```\ngoose, swan\n```\n\nLook at these:"}
    assert answer == {"role": "assistant", "content": "Geese."}
    *_, question, _ = to_openai(conversation, lambda _: None)["messages"]
    assert question["content"] == text["text"], "a missing picture is left out"


def test_the_export_is_a_request_and_can_be_imported() -> None:
    conversation = with_attachments(BLOBS)
    exported = to_openai(conversation, reader(BLOBS))
    request = ChatRequest.model_validate({"messages": exported["messages"]})
    assert len(request.messages) == len(conversation.path()) + 1
    result = import_file("chat.json", json_bytes(exported))
    back = only(result)
    assert (back.title, back.system) == ("Geese 鹅", "Be brief.")
    shown = [(message.role, message.reasoning) for message in back.path()]
    assert shown == [(message.role, message.reasoning) for message in conversation.path()]
    assert PNG in result.files.values() and back.path()[-2].attachments[0].kind == "image"
