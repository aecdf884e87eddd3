"""The prompt of a request, as it arrives at a worker, in tokens that fit the context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.core.worker_errors import TextTooLong
from modules.engines import next_token
from modules.engines.engine_protocol import BatchingEngine, ImageReader
from modules.engines.prompt_fitting import LONGEST_TOKEN, fit
from modules.engines.repetition import with_seed
from modules.system.cancellation import raise_if_cancelled


def tokenized(
    engine: BatchingEngine, prompt: Json, params: Mapping[str, Json], top: int | None = None
) -> dict[str, Json]:
    """Return the arguments of `submit`, and the facts that `Done` reports.

    Raises PromptTooLong or TextTooLong, and Cancelled between the texts that it tokenizes, which may take seconds.
    With `top`, it ends with so many candidates for the next token: see `engines.next_token`.
    """
    raise_if_cancelled()
    if has_grammar(params):
        engine.prepare_grammars()
        raise_if_cancelled()
    whole = Prompt(prompt) if isinstance(prompt, str) else Prompt.from_json(prompt)
    info = engine.info
    if whole.images:
        params = {**params, "images": cast(ImageReader, engine).read_images(whole.images, whole.image_text)}

    def encode(text: str) -> list[int]:
        raise_if_cancelled()
        return engine.tokenize(text, params)

    fitted = fit(whole, encode, info.context_length, info.vocabulary_size)
    if top is not None:
        params = next_token.ask_for(params, top)
    params = with_seed(params)
    facts = {"shortened": fitted.shortened, "seed": params.get("seed", -1)}
    return {"prompt": fitted.tokens, "params": params, "facts": facts}


def has_grammar(params: Mapping[str, Json]) -> bool:
    """Return whether an answer has to match a grammar."""
    return bool(params.get("grammar_string") or params.get("answer_grammar"))


def as_text(prompt: Json, params: Mapping[str, Json]) -> tuple[Prompt, Mapping[str, Json]]:
    """Return the prompt and parameters of `submit_text`."""
    return Prompt(prompt) if isinstance(prompt, str) else Prompt.from_json(prompt), with_seed(params)


def measured(engine: BatchingEngine, prompt: Json, params: Mapping[str, Json]) -> int:
    """Return how many tokens the whole of a prompt has, images included. Raises TextTooLong."""
    whole, context = Prompt.from_json(prompt), engine.info.context_length
    if len(whole.text) > LONGEST_TOKEN * context:
        raise TextTooLong(len(whole.text), context)
    if whole.images:
        params = {**params, "images": cast(ImageReader, engine).read_images(whole.images, whole.image_text)}
    return len(engine.tokenize(whole.text, params))
