"""Small files of other programs, written by hand in the shape in which those write them."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping

from modules.conversations.conversation import Conversation
from modules.conversations.importers.detect import import_file
from modules.conversations.importers.result import ImportResult
from modules.core.events import Json

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()

OPEN_WEBUI = [
    {
        "id": "6b0e",
        "title": "Geese 鹅",
        "created_at": 1700000000,
        "updated_at": 1700000100,
        "pinned": True,
        "chat": {
            "models": ["qwen3"],
            "params": {"system": "Be brief."},
            "history": {
                "currentId": "a-2",
                "messages": {
                    "q-1": {
                        "id": "q-1", "parentId": None, "childrenIds": ["a-2", "a-1"], "role": "user",
                        "content": "What is a goose?", "timestamp": 1700000001, "models": ["qwen3"],
                        "files": [
                            {"type": "image", "url": PNG_URI},
                            {"type": "file", "name": "birds.txt", "file": {"data": {"content": "goose, swan"}}},
                            {"type": "file", "name": "lost.pdf", "id": "f1"},
                        ],
                    },
                    "a-1": {
                        "id": "a-1", "parentId": "q-1", "childrenIds": [], "role": "assistant", "done": False,
                        "content": "An animal.", "timestamp": 1700000002, "model": "llama3",
                    },
                    "a-2": {
                        "id": "a-2", "parentId": "q-1", "childrenIds": [], "role": "assistant", "done": True,
                        "content": '<details type="reasoning" done="true" duration="5">\n'
                        "<summary>Thought for 5 seconds</summary>\n"
                        "&gt; A bird &amp; more.\n&gt; \n&gt; Yes.\n</details>\n"
                        '<details type="tool_calls" done="true" id="c1" name="look_up" '
                        'arguments="{&quot;q&quot;: &quot;goose&quot;}" result="&quot;bird&quot;">\n'
                        "<summary>Tool Executed</summary>\n</details>\nA bird.",
                        "timestamp": 1700000003, "model": "qwen3",
                    },
                },
            },
        },
    }
]  # fmt: skip
OPEN_WEBUI_OF_2023 = [
    {
        "id": "1",
        "title": "Old",
        "chat": {
            "title": "Old",
            "system": "",
            "timestamp": 1690000000000,
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi."},
            ],
        },
    }
]


def chatgpt_node(parent: str | None, role: str, content: Json, *children: str, **message: Json) -> Json:
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    message = {"author": {"role": role}, "content": content, "recipient": "all", "metadata": {}} | message
    return {"parent": parent, "children": list(children), "message": message}


CHATGPT = [
    {
        "title": "Weather",
        "create_time": 1710000000.5,
        "update_time": 1710000200.25,
        "current_node": "answer",
        "mapping": {
            "root": {"id": "root", "message": None, "parent": None, "children": ["hidden"]},
            "hidden": chatgpt_node(
                "root", "system", "", "profile", metadata={"is_visually_hidden_from_conversation": True}
            ),
            "profile": chatgpt_node(
                "hidden", "user", {"content_type": "user_editable_context", "user_profile": "I like geese."},
                "question",
                metadata={"is_visually_hidden_from_conversation": True},
            ),
            "question": chatgpt_node(
                "profile", "user",
                {
                    "content_type": "multimodal_text",
                    "parts": [
                        {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-Sky"},
                        "Will it rain?",
                    ],
                },
                "first", "thoughts", create_time=1710000001.0,
                metadata={"attachments": [{"id": "file-Sky", "name": "sky.png"}, {"id": "file-No", "name": "no.pdf"}]},
            ),
            "first": chatgpt_node("question", "assistant", "Perhaps.", metadata={"model_slug": "gpt-4"}),
            "thoughts": chatgpt_node(
                "question", "assistant",
                {"content_type": "thoughts", "thoughts": [{"summary": "Looking up", "content": "The sky is grey."}]},
                "recap",
            ),
            "recap": chatgpt_node(
                "thoughts", "assistant", {"content_type": "reasoning_recap", "content": "Thought for 8s"}, "call",
                metadata={"finished_duration_sec": 8},
            ),
            "call": chatgpt_node(
                "recap", "assistant", {"content_type": "code", "language": "json", "text": '{"q": "rain"}'}, "result",
                recipient="web.search",
            ),
            "result": chatgpt_node(
                "call", "tool", {"content_type": "execution_output", "text": "Rain at 6."}, "answer",
                author={"role": "tool", "name": "web"},
            ),
            "answer": chatgpt_node(
                "result", "assistant", "Yes, at 6.\ue200cite\ue202turn0search0\ue201", create_time=1710000009.0,
                metadata={"model_slug": "gpt-5"},
            ),
        },
    }
]  # fmt: skip


def llama_server_line(id: str, parent: str | None, role: str, content: str, *children: str, **facts: Json) -> Json:
    links = {"id": id, "type": "text" if parent else "root", "parent": parent, "children": list(children)}
    time = 1780000000000 + 1000 * int(id[1:])
    return {"type": "message", "message": {"role": role, "content": content, "timestamp": time, **links, **facts}}


LLAMA_SERVER: list[dict[str, Json]] = [
    {
        "harness": "llama.cpp", "type": "session", "id": "c1", "name": "Geese", "currNode": "m4",
        "lastModified": 1780000009000,
    },
    llama_server_line("m0", None, "system", "", "m1"),
    llama_server_line("m1", "m0", "system", "Be brief.", "m2"),
    llama_server_line(
        "m2", "m1", "user", "What is a goose?", "m3", "m5",
        extra=[
            {"type": "TEXT", "name": "a.txt", "content": "goose"},
            {"type": "IMAGE", "name": "b.png", "base64Url": PNG_URI},
            {"type": "AUDIO", "name": "c.mp3", "base64Data": "AAAA"},
        ],
    ),
    llama_server_line(
        "m3", "m2", "assistant", "", "m6", reasoningContent="Look it up.",
        toolCalls=[{"id": "t1", "function": {"name": "look_up", "arguments": "{}"}}],
    ),
    llama_server_line("m6", "m3", "tool", "a bird", "m4", toolCallId="t1"),
    llama_server_line("m4", "m6", "assistant", "A bird.", model="qwen3"),
    llama_server_line("m5", "m2", "assistant", "<think>Hm.</think>\n\nAn animal."),
]  # fmt: skip
LLAMA_SERVER_OF_2025 = {
    "conv": {"id": "conv-1", "name": "Geese", "currNode": 1750000000003, "lastModified": 1750000000003},
    "messages": [
        {"id": 1750000000000, "type": "root", "role": "system", "content": "", "parent": -1},
        {"id": 1750000000001, "type": "text", "role": "user", "content": "Hello", "parent": 1750000000000},
        {"id": 1750000000003, "type": "text", "role": "assistant", "content": "Hi.", "thinking": "Greet.",
         "parent": 1750000000001, "children": [], "timestamp": 1750000000003},
    ],
}  # fmt: skip

SILLY_TAVERN: list[dict[str, Json]] = [
    {"user_name": "小明", "character_name": "Seraphina", "create_date": "2024-05-03@12h00m00s",
     "chat_metadata": {"note_prompt": ""}},
    {"name": "Seraphina", "is_user": False, "is_system": False, "send_date": "May 3, 2024 12:00pm", "mes": "Welcome!"},
    {"name": "小明", "is_user": True, "is_system": False, "send_date": "2024-05-03T10:01:00.000Z", "mes": "你好",
     "extra": {"image": "/user/images/a.png"}},
    {"name": "Seraphina", "is_user": False, "is_system": False, "send_date": "May 3, 2024 12:02pm",
     "mes": "Second, edited.", "swipe_id": 1, "swipes": ["First.", "Second.", "Third."],
     "swipe_info": [{"send_date": "May 3, 2024 12:01pm", "extra": {"reasoning": "One."}}, {"extra": {}}, {"extra": {}}],
     "extra": {"reasoning": "Two.", "reasoning_duration": 1500, "model": "qwen3"}},
    {"name": "Note", "is_user": False, "is_system": True, "send_date": 1714737900000, "mes": "A note."},
]  # fmt: skip

LM_STUDIO = {
    "name": "Geese",
    "pinned": True,
    "createdAt": 1740000000000,
    "userLastMessagedAt": 1740000001000,
    "assistantLastMessagedAt": 1740000002000,
    "systemPrompt": "",
    "perChatPredictionConfig": {"fields": [{"key": "llm.prediction.systemPrompt", "value": "Be brief."}]},
    "messages": [
        {
            "versions": [
                {"type": "singleStep", "role": "user", "content": [{"type": "text", "text": "Hello"}]},
                {
                    "type": "singleStep",
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is a goose?"},
                        {"type": "file", "fileIdentifier": "1.jpg", "fileType": "image", "sizeBytes": 1},
                    ],
                },
            ],
            "currentlySelected": 1,
        },
        {
            "versions": [
                {
                    "type": "multiStep",
                    "role": "assistant",
                    "senderInfo": {"senderName": "qwen3"},
                    "steps": [
                        {
                            "type": "contentBlock",
                            "style": {"type": "thinking"},
                            "content": [{"type": "text", "text": "A bird?"}],
                        },
                        {"type": "contentBlock", "content": [{"type": "toolCallRequest", "name": "look_up"}]},
                        {"type": "contentBlock", "content": [{"type": "text", "text": "A bird."}]},
                        {"type": "debugInfoBlock", "debugInfo": "nothing"},
                    ],
                }
            ],
            "currentlySelected": 0,
        },
    ],
}

PLAIN = {
    "title": "Plain",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": PNG_URI}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "function": {"name": "look"}}]},
        {"role": "tool", "name": "look", "content": "a goose"},
        {"role": "assistant", "content": "A goose.", "reasoning_content": "Obviously.", "model": "qwen3"},
    ],
}  # fmt: skip

ORIGINAL = {
    "internal": [["<|BEGIN-VISIBLE-CHAT|>", "Welcome!"], ["1 < 2?", "<think>Yes.</think>Yes."]],
    "visible": [["", "Welcome!"], ["1 &lt; 2?", "Yes."]],
    "metadata": {"user_1": {"timestamp": "May 03, 2024 12:00"}},
}


def own() -> Conversation:
    """Return a conversation with versions of a question and of an answer, and everything a message may have."""
    conversation = Conversation("20240503-12-00-00-abcd", "Geese 鹅", 1714737600.5, 1714737700.25, system="Be brief.")
    question = conversation.add("user", "What is a goose?", created=1714737601.0)
    conversation.add("assistant", "An animal.", created=1714737602.0, incomplete=True)
    conversation.add(
        "assistant", "A bird.\n\n```\ncode\n```", question.id, created=1714737603.0, reasoning="One.\n\n> Two.",
        reasoning_seconds=1.5, receipt={"model": {"name": "qwen3"}},
    )  # fmt: skip
    conversation.add("user", "多少只？", created=1714737604.0)
    conversation.add("assistant", "三只。", created=1714737605.0, extra={"model": "llama3"})
    conversation.add("user", "Why?", "", created=1714737606.0)
    conversation.select(conversation.children(question.id)[1])
    return conversation


def json_bytes(value: Json) -> bytes:
    return json.dumps(value).encode()


def lines(values: list[dict[str, Json]]) -> bytes:
    return b"\n".join(map(json_bytes, values))


def archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def imported(value: Json) -> Conversation:
    """Return the only conversation of a JSON file."""
    return only(import_file("file.json", json_bytes(value)))


def only(result: ImportResult) -> Conversation:
    assert len(result.conversations) == 1
    return result.conversations[0]


def texts(conversation: Conversation) -> list[tuple[str, str]]:
    """Return roles and texts of what is shown."""
    return [(message.role, message.content) for message in conversation.path()]


def problems(result: ImportResult) -> str:
    return "\n".join(words["en"] for words in result.problems)
