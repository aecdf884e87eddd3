"""llama-server's completions of a gap in a text, as editors ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from modules.api.ignored_fields import ignored_header, shortened
from modules.api.prompts import fim_tokens
from modules.api.request_body import Expected, Text
from modules.api.responses import sse_event, timings_of
from modules.api.schemas import GenerationRequest
from modules.chat.gap_prompt import gap_prompt
from modules.core.events import Done, Json
from modules.core.events import Text as TextEvent
from modules.core.fill_in_middle import FimTokens
from modules.core.prompt import Prompt
from modules.runtime.loaded_model import LoadedModel

MAX_EXTRA = 256
_SEPARATORS = ("<|file_sep|>", "<file_sep>", "<|file_separator|>")

_TEXT = Expected("a text", "文本")


class ExtraFile(BaseModel):
    """A part of another file, which the model reads first."""

    model_config = ConfigDict(strict=True, extra="ignore")

    filename: Text = ""
    text: Text


class InfillRequest(GenerationRequest):
    """With the generation parameters of completions. `prompt` is how what fills the gap begins."""

    n: Annotated[int, Field(ge=1, le=1), Expected("1", " 1")] = 1
    input_prefix: Annotated[Text, _TEXT] = ""
    input_suffix: Annotated[Text, _TEXT] = ""
    input_extra: Annotated[
        list[ExtraFile],
        Field(fail_fast=True),
        Field(max_length=MAX_EXTRA),
        Expected(
            f'a list of at most {MAX_EXTRA} objects such as {{"filename": "a.py", "text": "…"}}',
            f'不超过 {MAX_EXTRA} 个对象的列表，对象形如 {{"filename": "a.py", "text": "…"}}',
        ),
    ] = Field(default_factory=list)
    prompt: Annotated[Text, _TEXT] = ""

    @property
    def candidates(self) -> None:
        return None


def infill_prompt(model: LoadedModel, request: InfillRequest, params: Mapping[str, Json]) -> Prompt:
    """Return the prompt for a gap. Raises Unsupported if the model cannot fill any."""
    fim = fim_tokens(model, "infill")
    before = _extra(request.input_extra, fim) + request.input_prefix
    return gap_prompt(model, fim, before, request.input_suffix, params, request.prompt)


def _extra(files: Sequence[ExtraFile], fim: FimTokens) -> str:
    """Return the text of other files, apart by the token that the model knows for that, if it has one."""
    separator = next((text for text in _SEPARATORS if text in fim.stops), "")
    return "".join(f"{separator}{file.filename}\n{file.text}\n" for file in files)


class InfillFormat:
    """Write an answer in llama-server's own format."""

    def __init__(self, model: str, ignored: Sequence[str] = ()) -> None:
        self._model, self._ignored = model, ignored
        self.headers = ignored_header(ignored)

    def whole(self, answers: Sequence[Sequence[TextEvent]], ends: Mapping[int, Done]) -> Json:
        return {"content": "".join(piece.text for piece in answers[0]), **self._end(ends[0])}

    def sse_opening(self, number: int) -> bytes:
        return b""

    def sse_text(self, number: int, piece: TextEvent) -> bytes:
        return sse_event({"index": number, "content": piece.text, "stop": False}) if piece.text else b""

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        return sse_event({"index": number, "content": "", **self._end(end)})

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        return b""

    def _end(self, end: Done) -> dict[str, Json]:
        kind = "limit" if end.reason == "length" else "word" if end.stop_string else "eos"
        return {
            "stop": True,
            "model": self._model,
            "tokens_predicted": end.completion_tokens,
            "tokens_evaluated": end.prompt_tokens,
            "tokens_cached": end.cached_tokens,
            "stop_type": kind,
            "stopping_word": end.stop_string,
            "truncated": False,
            "timings": timings_of(end),
            **({"ignored": shortened(self._ignored)} if self._ignored else {}),
        }
