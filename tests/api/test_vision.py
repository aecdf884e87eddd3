"""Images over the API to tiny vision models of random weights, which are found with what they need in their folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.config import flags
from modules.planning.load_request import LoadRequest
from tests.support.pictures import data_uri, picture
from tests.support.serving import Server, server_of
from tests.support.tiny_hf_vision import tiny_hf_vision
from tests.support.tiny_vision import HAS_MTMD, tiny_vision


@pytest.fixture(scope="module", params=["llama.cpp", "Transformers"])
def server(
    request: pytest.FixtureRequest, smollm2: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with_llama = request.param == "llama.cpp"
    if with_llama and not HAS_MTMD:
        pytest.skip("llama-cpp-python was built without mtmd")
    folder = tiny_vision(smollm2, "qwen2vl").parent if with_llama else tiny_hf_vision(tiny_folder, "qwen2vl")
    models = tmp_path_factory.mktemp("models")
    (models / "tiny").symlink_to(folder)
    app = App(flags.parse(["--api", "--model-dir", str(models)]))
    (record,) = app.catalog.models()
    form = {"n_ctx": 512, "threads": 1} if with_llama else {}
    app.loading.load(app.planner.plan(LoadRequest(record, form=form)))
    with server_of(app) as running:
        yield running
    app.models.close()


def ask(server: Server, *images: bytes, text: str = "What is this?", **fields: Any) -> Any:
    parts = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in images]
    content = [*parts, {"type": "text", "text": text}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0, **fields}
    return server.post("/chat/completions", body)


def test_an_image_is_answered_twice_alike_and_evaluated_once(server: Server) -> None:
    red = picture("PNG", 60, 60, (255, 0, 0))
    first, second = (ask(server, red).json() for _ in range(2))
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    tokens = first["usage"]["prompt_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == tokens - 1
    assert tokens > ask(server).json()["usage"]["prompt_tokens"] + 4, "the image counts"
    other = ask(server, picture("PNG", 60, 60, (0, 0, 255))).json()
    assert other["usage"]["prompt_tokens"] == tokens
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] < tokens - 8


def test_every_format_is_read_and_streamed_alike(server: Server, subtests: pytest.Subtests) -> None:
    tokens = ask(server, picture("PNG", 40, 40)).json()["usage"]["prompt_tokens"]
    for kind in ("JPEG", "WEBP"):
        with subtests.test(kind):
            assert ask(server, picture(kind, 40, 40)).json()["usage"]["prompt_tokens"] == tokens
    assert "data: [DONE]" in ask(server, picture("WEBP", 40, 40), stream=True).text


def test_the_marks_of_a_prompt_in_the_text_of_a_user_are_text(server: Server) -> None:
    red = picture("PNG", 60, 60, (255, 0, 0))
    for text in ("\ufdd00\ufdd1", "<__media__>", "<|image_pad|>"):
        assert ask(server, red, text=text).status_code == 200


def test_damaged_images_and_too_many_tokens_are_refused(server: Server) -> None:
    whole = picture("PNG", 60, 60)
    damaged = ask(server, whole[:50])
    assert (damaged.status_code, damaged.json()["error"]["code"]) == (400, "image_unreadable")
    many = ask(server, *(picture("PNG", 200, 200, (red, 0, 0)) for red in range(30)))
    assert (many.status_code, many.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert ask(server, whole).status_code == 200


def test_clients_see_that_the_model_reads_images(server: Server) -> None:
    (model,) = [one for one in server.http.get("/models").json()["data"] if one["loaded"]]
    assert model["input_modalities"] == ["text", "image"]


def test_the_prompt_is_shown_with_a_word_for_each_image(server: Server) -> None:
    parts = [{"type": "image_url", "image_url": {"url": data_uri(picture())}}, {"type": "text", "text": "Hm?"}]
    shown = server.post("/internal/chat-prompt", {"messages": [{"role": "user", "content": parts}]}).json()["prompt"]
    assert "<image>Hm?" in shown


def test_all_three_apis_give_the_model_the_same_prompt(server: Server) -> None:
    data = picture("PNG", 60, 60, (9, 99, 9))
    uri = data_uri(data)
    chat = ask(server, data, text="Hm?").json()["usage"]["prompt_tokens"]
    source = {"type": "base64", "media_type": "image/png", "data": uri.partition(",")[2]}
    text = {"type": "text", "text": "Hm?"}
    message = {"role": "user", "content": [{"type": "image", "source": source}, text]}
    anthropic = server.post("/messages", {"model": "any", "max_tokens": 4, "messages": [message]}).json()["usage"]
    assert anthropic["input_tokens"] + anthropic["cache_read_input_tokens"] == chat
    content = [{"type": "input_image", "image_url": uri}, {"type": "input_text", "text": "Hm?"}]
    body = {"model": "any", "max_output_tokens": 16, "input": [{"role": "user", "content": content}]}
    assert server.post("/responses", body).json()["usage"]["input_tokens"] == chat
    counted = server.post("/messages/count_tokens", {"model": "any", "messages": [message]}).json()
    assert counted == {"input_tokens": chat}
