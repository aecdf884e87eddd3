"""Prompts of the notebook: plain text, the ids of tokens that a model has written, and gaps to be filled in."""

from __future__ import annotations

from collections.abc import Mapping

from modules.chat.gap_prompt import MARKERS, tokens_around
from modules.chat.prompt import room
from modules.core.events import Json
from modules.core.fill_in_middle import FimTokens
from modules.core.prompt import Prompt
from modules.engines.prompt_fitting import LONGEST_TOKEN
from modules.notebook.notebook import Beginning
from modules.runtime.loaded_model import LoadedModel

NEXT_TOKENS = 50
"""Most likely next tokens that are shown."""


def prompt_of(model: LoadedModel, beginning: Beginning, params: Mapping[str, Json]) -> Prompt:
    """Return the prompt for what follows `beginning.before`: of a long text, its last tokens.

    Tokens that the model has written stay as they are: tokenized anew, the same text could be other tokens.
    """
    limit = room(model, params)
    written = tuple(token.id for token in beginning.passage.tokens)
    if (fim := _fim_of(model, beginning)) is not None:
        before, after, bos = _around(model, beginning, limit)
        tokens = (*fim.prompt(before, after, bos), *written)
        return Prompt("", limit, truncate=True, stop=fim.stops, visible=fim.stops, tokens=tokens)
    if not written:
        return Prompt(beginning.before, limit, truncate=True)
    return Prompt("", limit, truncate=True, tokens=(*_before(model, beginning, limit), *written))


def _fim_of(model: LoadedModel, beginning: Beginning) -> FimTokens | None:
    return model.info.fim if beginning.passage.fills else None


def _before(model: LoadedModel, beginning: Beginning, limit: int) -> list[int]:
    """Return the tokens of the text before the passage, without most of those that are too far away."""
    text = beginning.before[: beginning.passage.start]
    ids: list[int] = model.ask("encode", text=text[-LONGEST_TOKEN * limit :])
    return ids


def _around(model: LoadedModel, beginning: Beginning, limit: int) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens before and after a gap for which there is room, and those that every prompt begins with."""
    before = beginning.before[: beginning.passage.start]
    return tokens_around(model, before, beginning.after, limit, len(beginning.passage.tokens))


def fit_of(model: LoadedModel, beginning: Beginning, params: Mapping[str, Json]) -> dict[str, Json]:
    """Return how many tokens the whole prompt has, how many it may have (`limit`), where in the text those that the
    model gets begin, and whether the model can fill gaps.
    """
    limit, passage, fim = room(model, params), beginning.passage, _fim_of(model, beginning)
    tokens = int(model.ask("count", text=beginning.before[: passage.start])) + len(passage.tokens)
    if fim is not None:
        tokens += int(model.ask("count", text=beginning.after)) + MARKERS
    begins = 0
    if tokens > limit:
        if fim is not None:
            last = _around(model, beginning, limit)[0]
        else:
            first: list[int] = model.ask("encode", text="")  # what every prompt of this model begins with
            written = [token.id for token in passage.tokens]
            last = [*_before(model, beginning, limit), *written][-max(limit - len(first), 1) :]
        end = passage.start if fim is not None else len(beginning.before)
        begins = max(end - len(model.ask("decode", tokens=last)), 0)
    return {"tokens": tokens, "limit": limit, "begins": begins, "fills": model.info.fim is not None}


def next_tokens(model: LoadedModel, beginning: Beginning, params: Mapping[str, Json]) -> Json:
    """Return the most likely next tokens: "plain", with log probabilities before any sampler, and "sampled", with the
    probabilities by which one would be drawn after all samplers; each as id, text and number.
    """
    prompt = prompt_of(model, beginning, params)
    return model.ask("next", prompt=prompt.to_json(), params=dict(params), top=NEXT_TOKENS)
