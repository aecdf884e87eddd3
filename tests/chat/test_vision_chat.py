"""Conversations with pictures and a tiny vision model of random weights: its prompt has the pictures, in every mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.chat.attachment_text import read_attachment
from modules.chat.run import ReplyRequest
from modules.config import flags
from modules.conversations.conversation import ChatMessage, Conversation
from modules.loaders import generation_settings
from modules.planning.load_request import LoadRequest
from tests.support.echo_plans import wait_until
from tests.support.pictures import picture
from tests.support.tiny_vision import HAS_MTMD, tiny_vision

pytestmark = pytest.mark.skipif(not HAS_MTMD, reason="llama-cpp-python was built without mtmd")

PARAMS = generation_settings.resolve({"max_new_tokens": 4, "temperature": 0.0})


@pytest.fixture(scope="module")
def app(smollm2: Path, backend: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("vision chat")
    (folder / "models").mkdir()
    (folder / "models" / "tiny").symlink_to(tiny_vision(smollm2, "qwen2vl").parent)
    app = App(flags.parse(["--model-dir", str(folder / "models"), "--logs-dir", str(folder / "logs")]))
    (record,) = app.catalog.models()
    app.loading.load(app.planner.plan(LoadRequest(record, form={"n_ctx": 1024, "threads": 1})))
    yield app
    app.runs.close()
    app.models.close()
    app.templates.close()


@pytest.fixture
def answer(app: App) -> Callable[..., ChatMessage]:
    """Ask a question with pictures in a new conversation of a mode, and return the answer."""

    def ask(mode: str, *pictures: bytes) -> ChatMessage:
        files = tuple(read_attachment(f"{number}.png", data) for number, data in enumerate(pictures))
        for data in pictures:
            app.conversations.blobs.put(data)
        request = ReplyRequest("send", PARAMS, text="What is this?", attachments=files)
        state = app.runs.start(app.conversations, "", request, app.models.current, Conversation("", mode=mode))
        wait_until(lambda: not app.runs.running(app.conversations), 30)
        failure = app.runs.failure(app.conversations, state.conversation)
        assert failure is None, failure.error
        return app.conversations.read(state.conversation).path()[-1]

    return ask


def test_the_prompt_has_the_pictures_in_every_mode(
    app: App, answer: Callable[..., ChatMessage], subtests: pytest.Subtests
) -> None:
    red, blue = picture(width=60, height=60), picture(width=60, height=60, color=(0, 0, 200))
    for mode in ("instruct", "chat-instruct", "chat"):
        with subtests.test(mode):
            tokens = [answer(mode, *files).receipt["tokens"]["prompt"] for files in ((), (red,), (red, blue))]
            one, two = tokens[1] - tokens[0], tokens[2] - tokens[1]
            assert one > 4 and abs(two - one) <= 2, "each picture takes as many tokens"
    assert len(answer("instruct", red, blue).receipt["images"]) == 2
