"""Pictures for tiny vision models of random weights, one for each way in which pictures are placed.

What they prove: that our engine gives a model the same numbers as mtmd's own helpers do, whatever else runs beside it
and whatever is in the KV cache. What a picture shows to a model that was trained is proven by none of them.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Info, Progress
from modules.core.image_marks import mark
from modules.core.paths import ROOT
from modules.core.prompt import Image, Prompt, Replacement
from modules.core.worker_errors import ImageUnreadable, PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA, load
from tests.support.answers import Answer, Crowd, answer, ask, forget, next_tokens, parameters
from tests.support.llama_requests import OPTIONS, assert_same_answer, chat, describe_cache
from tests.support.pictures import picture, png_with_two_headers
from tests.support.tiny_vision import HAS_MTMD, KINDS, projector, tiny_vision
from tests.support.worker_pool import WorkerPool

pytestmark = pytest.mark.skipif(not HAS_MTMD, reason="llama-cpp-python was built without mtmd")

N_CTX, N_BATCH, TOKENS = 512, 64, 8
SETTINGS: dict[str, Any] = {"max_new_tokens": TOKENS, "ban_eos_token": True, "top_logprobs": 20}


def image(red: int, width: int = 70, height: int = 90, green: int = 0) -> Image:
    data = picture("PNG", width, height, (red, green, 120))
    return Image(hashlib.sha256(data).hexdigest(), data)


RED, BLUE = image(250), image(5)


def question(*images: Image, text: str = "What is {}?") -> Prompt:
    """Return the prompt of a chat, in which a mark for each picture stands in place of "{}"."""
    marks = " and ".join(mark(number) for number in range(len(images)))
    return Prompt(f"<|im_start|>user\n{text.format(marks)}<|im_end|>\n<|im_start|>assistant\n", images=images)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, smollm2: Path) -> Path:
    return tiny_vision(smollm2, request.param)


@pytest.fixture(scope="module")
def llama(model: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    options = OPTIONS | {"n_ctx": N_CTX, "n_batch": N_BATCH, "mmproj": "mmproj.gguf"}
    with workers.lease(model, LLAMA, **options) as pooled:
        assert pooled.info.images
        yield pooled.worker


@pytest.fixture(autouse=True)
def _check_slots(llama: WorkerProcess) -> Iterator[None]:
    yield
    cache = describe_cache(llama)
    assert not any(slot["busy"] for slot in cache["slots"])


def encoded(llama: WorkerProcess) -> int:
    return int(ask(llama, "images")["encoded"])


def test_answers_are_those_of_mtmds_own_helpers(llama: WorkerProcess, model: Path, tmp_path: Path) -> None:
    images = (RED, image(90, 200, 40))
    files = [tmp_path / f"{number}.png" for number in range(len(images))]
    for file, one in zip(files, images, strict=True):
        file.write_bytes(one.data)
    prompt = question(*images)
    text = prompt.text
    for number in range(len(images)):
        text = text.replace(mark(number), "<__media__>")
    request = {
        "model": str(model),
        "projector": str(model.with_name("mmproj.gguf")),
        "text": text,
        "images": [str(file) for file in files],
        "n_ctx": N_CTX,
        "n_batch": N_BATCH,
        "tokens": TOKENS,
    }
    child = subprocess.run(
        [sys.executable, "-m", "tests.support.mtmd_reference"],
        cwd=ROOT,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    reference = json.loads(child.stdout)
    forget(llama)
    ours = answer(llama, prompt, **SETTINGS)
    assert [token.chosen.id for token in ours.logprobs] == reference["tokens"]
    first = {str(token.id): token.logprob for token in ours.logprobs[0].top[:10]}
    assert first == pytest.approx(reference["logprobs"], abs=1e-3)


def test_a_picture_is_encoded_once_and_its_prefix_is_reused(llama: WorkerProcess) -> None:
    forget(llama)
    one = image(33)
    before = encoded(llama)
    first = answer(llama, question(one), **SETTINGS)
    second = answer(llama, question(one), **SETTINGS)
    assert (encoded(llama) - before, second.done.cached_tokens) == (1, first.done.prompt_tokens - 1)
    assert_same_answer(second, first)
    forget(llama)
    assert_same_answer(answer(llama, question(one), **SETTINGS), first)
    assert encoded(llama) - before == 1, "the embeddings are kept although the cells are gone"


def test_pictures_of_one_size_are_told_apart(llama: WorkerProcess) -> None:
    red, blue = answer(llama, question(RED), **SETTINGS), answer(llama, question(BLUE), **SETTINGS)
    assert red.done.prompt_tokens == blue.done.prompt_tokens
    assert abs(red.logprobs[0].top[0].logprob - blue.logprobs[0].top[0].logprob) > 1e-3 or red.text != blue.text
    assert_same_answer(answer(llama, question(RED), **SETTINGS), red)
    both = answer(llama, question(RED, BLUE), **SETTINGS)
    again = answer(llama, question(BLUE, RED), **SETTINGS)
    assert both.logprobs[0].top != again.logprobs[0].top


def test_a_conversation_with_a_picture_goes_on_from_its_cells(llama: WorkerProcess) -> None:
    forget(llama)
    prompt = question(RED)
    first = answer(llama, prompt, **SETTINGS)
    more = Prompt(f"{prompt.text}A thing.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n", images=prompt.images)
    continued = answer(llama, more, **SETTINGS)
    assert continued.done.cached_tokens >= first.done.prompt_tokens - 1
    forget(llama)
    assert_same_answer(continued, answer(llama, more, **SETTINGS))


def test_answers_do_not_depend_on_what_runs_beside_them(llama: WorkerProcess) -> None:
    """The context is too small for these texts and pictures: slots are evicted and saved, and requests preempted."""
    rng = random.Random(11)
    prompts: list[str | Prompt] = [
        *(question(image(red), text=f"{topic} {{}} " + "again " * 60) for red, topic in ((10, "One"), (20, "Two"))),
        *(question(image(red), image(red + 100)) for red in (30, 40)),
        *(chat(topic) + "word " * 40 for topic in ("the moon", "bread")),
    ]
    alone: list[Answer] = []
    for prompt in prompts:
        forget(llama)
        alone.append(answer(llama, prompt, **SETTINGS))
    crowd = Crowd(llama)
    order = [rng.randrange(len(prompts)) for _ in range(18)]
    calls = [crowd.ask(_sent(prompts[index]), **SETTINGS) for index in order]
    for index, call in zip(order, calls, strict=True):
        assert_same_answer(crowd.answer(call), alone[index])
    for slot in describe_cache(llama)["slots"]:
        assert slot["span"] == ([0, slot["positions"] - 1] if slot["cells"] else [-1, -1])


def _sent(prompt: str | Prompt) -> Any:
    return prompt if isinstance(prompt, str) else prompt.to_json()


def test_a_request_is_cancelled_between_two_pictures(llama: WorkerProcess) -> None:
    images = [image(red, green=77) for red in range(100, 116)]
    before = encoded(llama)
    crowd = Crowd(llama)
    call = crowd.ask(_sent(question(*images)), **SETTINGS)
    crowd.wait(call, Progress, 1)
    llama.cancel(call)
    answer(llama, chat("the sea"), max_new_tokens=1)
    assert encoded(llama) < before + len(images)
    assert_same_answer(answer(llama, question(RED), **SETTINGS), answer(llama, question(RED), **SETTINGS))


def test_the_tokens_of_pictures_count(llama: WorkerProcess) -> None:
    many = [image(red, green=33) for red in range(60)]
    with pytest.raises(PromptTooLong) as refusal:
        answer(llama, question(*many[:5], text="{} " + "word " * N_CTX), **SETTINGS)
    one, two = (answer(llama, question(*many[:count]), max_new_tokens=1).done.prompt_tokens for count in (1, 2))
    assert two - one >= 4 and refusal.value.tokens > N_CTX


def test_a_prompt_is_shortened_with_its_pictures(llama: WorkerProcess) -> None:
    tail = question(BLUE).text.replace(mark(0), mark(1))
    long = Prompt(
        f"{question(RED).text} word word<|im_end|>\n{tail}",
        limit=answer(llama, question(BLUE), max_new_tokens=1).done.prompt_tokens,
        shorter=(Replacement.between(f"{question(RED).text} word word<|im_end|>\n{tail}", tail),),
        images=(RED, BLUE),
    )
    shortened = answer(llama, long, **SETTINGS)
    assert shortened.done.shortened == 0
    assert_same_answer(shortened, answer(llama, question(BLUE), **SETTINGS))


def test_a_repetition_evaluates_as_much_of_a_picture_as_before(llama: WorkerProcess) -> None:
    """The limit of reused tokens lies inside the picture, so that all of it is evaluated again."""
    forget(llama)
    prompt = question(RED)
    first = answer(llama, prompt, **SETTINGS)
    start = len(ask(llama, "encode", text=prompt.text.partition(mark(0))[0]))
    params = {**parameters(**SETTINGS), "max_cached_tokens": start + 2}
    again = Answer(list(llama.events("generate", prompt=prompt.to_json(), params=params)))
    assert again.done.cached_tokens <= start + 2 < first.done.cached_tokens + first.done.prompt_tokens
    assert_same_answer(again, first)


def test_candidates_for_the_next_token_are_those_after_the_picture(llama: WorkerProcess) -> None:
    (first,) = answer(llama, question(RED), max_new_tokens=1, top_logprobs=5).logprobs
    candidates = next_tokens(llama, question(RED), top=5)
    assert [token[0] for token in candidates["plain"]] == [token.id for token in first.top]


def test_streaming_llm_never_moves_pictures(model: Path, workers: WorkerPool) -> None:
    options = OPTIONS | {"n_ctx": N_CTX, "mmproj": "mmproj.gguf", "streaming_llm": True}
    filler = "word " * 150
    tail = f"{filler}<|im_end|>\n<|im_start|>user\nWhat is {mark(0)}?<|im_end|>\n<|im_start|>assistant\n"
    with workers.lease(model, LLAMA, **options) as pooled:
        shortened = Prompt(f"<|im_start|>user\n{tail}", images=(RED,))
        expected = answer(pooled.worker, shortened, **SETTINGS)
        forget(pooled.worker)
        answer(pooled.worker, Prompt(f"<|im_start|>user\nFirst things first. {tail}", images=(RED,)), **SETTINGS)
        assert_same_answer(answer(pooled.worker, shortened, **SETTINGS), expected)


def test_a_damaged_picture_ends_its_request_alone(llama: WorkerProcess) -> None:
    damaged = Image("damaged", RED.data[:60])
    with pytest.raises(ImageUnreadable, match="The image is damaged"):
        answer(llama, question(damaged), **SETTINGS)
    assert answer(llama, question(RED), **SETTINGS).text


def test_a_picture_that_is_larger_than_its_header_says_is_not_decoded(llama: WorkerProcess) -> None:
    bomb = Image("bomb", png_with_two_headers(13_000, 13_000))
    with pytest.raises(ImageUnreadable, match="13000 × 13000 pixels"):
        answer(llama, question(bomb), **SETTINGS)


def test_a_vision_part_that_does_not_fit_is_left_out_with_a_note(
    model: Path, llama: WorkerProcess, worker: WorkerProcess, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").symlink_to(model)
    (tmp_path / "other.gguf").write_bytes(projector("llama", output=32))
    infos: list[Info] = []
    for name in ("other.gguf", "absent.gguf", "model.gguf"):
        infos.append(load(worker, tmp_path / "model.gguf", n_ctx=256, mmproj=name))
        note = next(note for note in infos[-1].notes if note.option == "mmproj")
        assert f"Images are off: {name} cannot be used" in note.text["en"]
    assert not any(info.images for info in infos)
    assert "mismatch between text model" in str(infos[0].notes)
    assert not load(worker, model, n_ctx=256, mmproj="none").notes
