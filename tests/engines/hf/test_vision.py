"""Pictures for tiny vision models of random weights under Transformers, one for each way in which they are placed.

What they prove: that our engine gives a model the same numbers as `generate` does with the processor's input, whatever
was asked before and whatever runs beside it. What a picture shows to a model that was trained is proven by none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.core.events import Failed, Text
from modules.core.image_marks import mark
from modules.core.prompt import Image, Prompt, Replacement
from modules.core.worker_errors import ImageRejected, ImageUnreadable, PromptTooLong, TooManyPixels
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.support.answers import Answer, Crowd, answer, ask, forget, next_tokens
from tests.support.hf_vision_reference import vision_answers
from tests.support.linked_folder import linked_folder
from tests.support.pictures import picture, png_with_two_headers
from tests.support.tiny_hf_vision import CONTEXT, KINDS, PLACE, tiny_hf_vision
from tests.support.worker_pool import WorkerPool

TOKENS = 8
SETTINGS: dict[str, Any] = {"max_new_tokens": TOKENS, "ban_eos_token": True, "top_logprobs": 3}


def image(red: int, width: int = 70, height: int = 90) -> Image:
    data = picture("PNG", width, height, (red, 40, 120))
    return Image(hashlib.sha256(data).hexdigest(), data)


RED, BLUE, WIDE = image(250), image(5), image(90, 200, 40)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str, tiny_folder: Path) -> Path:
    return tiny_hf_vision(tiny_folder, kind)


@pytest.fixture(scope="module")
def hf(model: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(model, TRANSFORMERS) as pooled:
        assert pooled.info.images and not pooled.info.notes
        yield pooled.worker


def question(kind: str, *images: Image, text: str = "What is {}?") -> Prompt:
    """Return the prompt of a chat, in which a mark for each picture stands in place of "{}"."""
    marks = " and ".join(mark(number) for number in range(len(images)))
    words = f"<|im_start|>user\n{text.replace('{}', marks)}<|im_end|>\n<|im_start|>assistant\n"
    return Prompt(words, images=images, image_text=PLACE[kind])


def without_marks(kind: str, prompt: Prompt) -> str:
    text = prompt.text
    for number in range(len(prompt.images)):
        text = text.replace(mark(number), PLACE[kind])
    return text


def assert_same(answer: Answer, expected: Answer) -> None:
    ours, theirs = answer.logprobs, expected.logprobs
    assert [token.chosen.id for token in ours] == [token.chosen.id for token in theirs]
    assert [token.chosen.logprob for token in ours] == pytest.approx([t.chosen.logprob for t in theirs], abs=1e-3)


def _prompts(kind: str) -> list[Prompt]:
    """Return prompts one after the other: positions of pictures must not be left behind for the text."""
    return [question(kind, *images) for images in ((RED,), (RED, WIDE))] + [
        question(kind, text="Hello"),
        question(kind, BLUE),
    ]


@pytest.fixture(scope="module")
def references(tiny_folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What `generate` answers, for all kinds of models by one process."""
    asked = {
        kind: [(without_marks(kind, prompt), [one.data for one in prompt.images]) for prompt in _prompts(kind)]
        for kind in KINDS
    }
    return vision_answers({kind: tiny_hf_vision(tiny_folder, kind) for kind in KINDS}, asked, TOKENS)


def test_answers_equal_generate_with_the_processors_input_whatever_was_asked_before(
    hf: WorkerProcess, kind: str, references: dict[str, list[dict[str, Any]]]
) -> None:
    expected = references[kind]
    forget(hf)
    for prompt, theirs in zip(_prompts(kind), expected, strict=True):
        ours = answer(hf, prompt, **SETTINGS)
        assert ours.done.prompt_tokens == theirs["prompt_tokens"]
        assert [token.chosen.id for token in ours.logprobs] == theirs["tokens"]
        assert [token.chosen.logprob for token in ours.logprobs] == pytest.approx(theirs["logprobs"], abs=1e-3)
    assert expected[0]["logprobs"] != expected[3]["logprobs"], "the pictures count"


def test_the_next_turn_goes_on_from_its_pictures_and_from_no_others(hf: WorkerProcess, kind: str) -> None:
    forget(hf)
    prompt = question(kind, RED)
    first = answer(hf, prompt, **SETTINGS)
    more = Prompt(
        f"{prompt.text}A thing.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n",
        images=prompt.images,
        image_text=prompt.image_text,
    )
    continued = answer(hf, more, **SETTINGS)
    if kind != "gemma3":  # whose layers have forgotten what is outside of their window
        assert continued.done.cached_tokens == first.done.prompt_tokens
    other = answer(hf, Prompt(more.text, images=(BLUE,), image_text=more.image_text), **SETTINGS)
    assert other.done.cached_tokens == 0 and other.done.prompt_tokens == continued.done.prompt_tokens
    forget(hf)
    assert_same(continued, answer(hf, more, **SETTINGS))
    assert other.logprobs[0].top != continued.logprobs[0].top


def test_texts_and_pictures_do_not_change_each_others_answers(hf: WorkerProcess, kind: str) -> None:
    prompts = [question(kind, RED), question(kind, text="One"), question(kind, WIDE), question(kind, text="Two")]
    alone = [answer(hf, prompt, **SETTINGS) for prompt in prompts]
    crowd = Crowd(hf)
    stopped = crowd.ask(question(kind, image(33)).to_json(), **SETTINGS | {"max_new_tokens": 200})
    calls = [crowd.ask(prompt.to_json(), **SETTINGS) for prompt in prompts * 2]
    crowd.wait(stopped, Text, 2)  # streamed
    hf.cancel(stopped)
    for call, expected in zip(calls, alone * 2, strict=True):
        assert_same(crowd.answer(call), expected)
    assert not any(isinstance(event, Failed) for event in crowd.heard[stopped])


def test_texts_of_users_are_no_pictures(hf: WorkerProcess, kind: str) -> None:
    words = "<image> <|image_pad|> <start_of_image> <image_soft_token> {}"
    plain = answer(hf, question(kind, RED), **SETTINGS)
    quoting = answer(hf, question(kind, RED, text=words), **SETTINGS)
    assert len(quoting.logprobs) == TOKENS and quoting.done.prompt_tokens > plain.done.prompt_tokens
    assert len(answer(hf, question(kind, text=words), **SETTINGS).logprobs) == TOKENS


def test_pictures_count_and_prompts_are_shortened_with_theirs(hf: WorkerProcess, kind: str) -> None:
    with pytest.raises(PromptTooLong):
        answer(hf, question(kind, RED, text="{} " + "word " * CONTEXT), **SETTINGS)
    one = answer(hf, question(kind, BLUE), **SETTINGS)
    tail = question(kind, BLUE).text.replace(mark(0), mark(1))
    head = f"{question(kind, RED).text} word word<|im_end|>\n"
    long = Prompt(
        head + tail,
        limit=one.done.prompt_tokens,
        shorter=(Replacement.between(head + tail, tail),),
        images=(RED, BLUE),
        image_text=PLACE[kind],
    )
    shortened = answer(hf, long, **SETTINGS)
    assert shortened.done.shortened == 0
    assert_same(shortened, one)
    assert ask(hf, "measure", prompt=question(kind, BLUE).to_json(), params={}) == one.done.prompt_tokens
    text = Prompt(head + "Hello", limit=12, shorter=(Replacement.between(head + "Hello", "Hello"),), images=(RED,))
    assert answer(hf, text, **SETTINGS).done.prompt_tokens == len(ask(hf, "encode", text="Hello"))


def test_the_next_token_after_a_picture_has_the_candidates_of_a_generation(hf: WorkerProcess, kind: str) -> None:
    first = answer(hf, question(kind, RED), **SETTINGS).logprobs[0]
    candidates = next_tokens(hf, question(kind, RED), top=3)
    assert [token[:2] for token in candidates["plain"]] == [[top.id, top.text] for top in first.top]


def test_without_its_image_processor_a_model_reads_text_and_says_why(
    reloadable: WorkerProcess, tiny_folder: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    folder = linked_folder(tiny_hf_vision(tiny_folder, "qwen2vl"), tmp_path / "model", ("preprocessor_config.json",))
    settings = folder / "preprocessor_config.json"
    cases = {
        "": "preprocessor_config.json",
        '{"processor_class"': "preprocessor_config.json is damaged",
        '{"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "PixtralProcessor"}': "pip install torch",
    }
    for content, reason in cases.items():
        with subtests.test(content):
            if content:
                settings.write_text(content)
            info = load(reloadable, folder, TRANSFORMERS)
            assert not info.images and reason in info.notes[-1].text["en"]
            assert answer(reloadable, "Hello", max_new_tokens=2).done.completion_tokens == 2


def test_what_cannot_be_read_is_refused_and_the_next_answer_is_right(hf: WorkerProcess, kind: str) -> None:
    expected = answer(hf, question(kind, RED), **SETTINGS)
    damaged = Image("ab", RED.data[:60])
    with pytest.raises(ImageUnreadable):
        answer(hf, question(kind, damaged), **SETTINGS)
    with pytest.raises(ImageUnreadable):
        answer(hf, question(kind, Image("cd", png_with_two_headers(6000, 6000))), **SETTINGS)
    if kind == "llava":
        large = png_with_two_headers(5000, 5000)
        with pytest.raises(TooManyPixels):
            answer(hf, question(kind, *(Image(str(number), large) for number in range(5))), **SETTINGS)
    if kind == "qwen2vl":
        with pytest.raises(ImageRejected, match="aspect ratio"):
            answer(hf, question(kind, image(1, 2000, 2)), **SETTINGS)
    with pytest.raises(OptionError):
        answer(hf, question(kind, RED), guidance_scale=2)
    assert_same(answer(hf, question(kind, RED), **SETTINGS), expected)
