"""Prepare a text for a loaded model: its tokens, what they begin with, and the windows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from modules.core.errors import Unsupported, Words
from modules.core.events import Json
from modules.evaluation.errors import TextTooShort, WindowTooLong
from modules.evaluation.fingerprint import hash_json
from modules.evaluation.request import EvaluationRequest
from modules.evaluation.texts import EvaluationText
from modules.evaluation.windows import CHUNK_LENGTH, CHUNKS, MIN_LENGTH, WindowPlan, plan_windows
from modules.loaders.registry import LOADERS
from modules.runtime.loaded_model import GENERATE, LoadedModel

ABILITY = "loglikelihoods"
DEFAULT_LENGTH = 2048


@dataclass(frozen=True)
class PreparedText:
    """The windows of a text for one model.

    `bos` is the id that windows begin with, None for none; `bos_text` how it is shown. `size` are the bytes of the
    scored tokens. `windows_hash` is equal for models of which every token can be compared.
    """

    windows: WindowPlan
    stride: int
    length: int
    bos: int | None
    bos_text: str
    size: int
    windows_hash: str


def prepare_text(model: LoadedModel, text: EvaluationText, request: EvaluationRequest) -> PreparedText:
    """Tokenize a text once, without special tokens, and plan its windows.

    Raises Unsupported, WindowTooLong, TextTooShort, WrongTask, or the end of the worker.
    """
    check_ability(model)
    length = _window_length(model, request)
    bos = _find_bos(model, request.bos)
    pieces: list[list[Json]] = model.ask("pieces", text=text.text, add_special=False)
    ids = [int(piece[0]) for piece in pieces]
    stride = min(request.stride, length)
    windows = plan_windows(ids, request.method, stride, length, bos, request.bos == "first")
    if not windows:
        raise TextTooShort(text.name, len(ids), length if request.method == CHUNKS else 2)
    windows = windows[: request.windows or None]
    size = sum(len(pieces[index][2]) // 2 for span in windows.spans for index in range(span.start, span.end))
    bos_text = "" if bos is None else str(model.ask("decode", tokens=[bos])) or str(bos)
    identity = hash_json([ids, bos, [dataclasses.astuple(span) for span in windows.spans]])
    return PreparedText(windows, stride, length, bos, bos_text, max(size, 1), identity)


def check_ability(model: LoadedModel) -> None:
    """Raise Unsupported for a loader that cannot score tokens, CannotGenerate … for a model of another task."""
    model.require(GENERATE)
    if ABILITY not in model.abilities and model.loader.elsewhere:
        raise Unsupported(
            {
                "en": f"{model.engine_name} cannot score the tokens of a text; servers of vLLM and SGLang can.",
                "zh": f"{model.engine_name} 无法给出文本各词符的概率；服务器中只有 vLLM 和 SGLang 可以。",
            }
        )
    if ABILITY not in model.abilities:
        able = ", ".join(
            loader.name for loader in LOADERS.values() if ABILITY in loader.abilities and not loader.elsewhere
        )
        name = model.engine_name
        raise Unsupported(
            {
                "en": f"{name} cannot score the tokens of a text; {able} can. Load the model with one of them.",
                "zh": f"{name} 无法给出文本各词符的概率；可使用 {able} 加载模型。",
            }
        )


def explain_difference(prepared: PreparedText, reference: PreparedText) -> Words:
    """Return why the figures of two models cannot be compared token by token."""
    if prepared.bos == reference.bos:
        return {
            "en": "Not compared with the first model: they do not cut the text into the same windows.",
            "zh": "未与第一个模型比较：两者切分出的窗口不同。",
        }
    bos, other = prepared.bos_text, reference.bos_text
    return {
        "en": f"Not compared with the first model: its windows begin with BOS {other or '(none)'}, these with "
        f"{bos or '(none)'}. Set BOS to always or never.",
        "zh": f"未与第一个模型比较：其窗口开头的 BOS 为 {other or '（无）'}，而此模型为 {bos or '（无）'}。"
        "请将 BOS 设为 always 或 never。",
    }


def _window_length(model: LoadedModel, request: EvaluationRequest) -> int:
    """Return how many tokens a window has. Raises WindowTooLong."""
    context = model.info.context_length
    default = CHUNK_LENGTH if request.method == CHUNKS else min(context, DEFAULT_LENGTH)
    length = request.max_length or default
    if length > context or context < MIN_LENGTH:
        raise WindowTooLong(model.record.name, length, context)
    return length


def _find_bos(model: LoadedModel, choice: str) -> int | None:
    """Return the token that windows begin with.

    "auto": what the model's own tokenizer puts before a text. "always" and "first": BOS, or EOS of a model without BOS.
    Raises Unsupported if it has neither.
    """
    own: list[int] = model.ask("encode", text="") if choice != "never" else []
    if own or choice in ("auto", "never"):
        return own[0] if own else None
    for name in ("bos_token", "eos_token"):
        token = model.info.special_tokens.get(name)
        ids: list[int] = model.ask("encode", text=token, add_special=False) if isinstance(token, str) and token else []
        if len(ids) == 1:
            return ids[0]
    raise Unsupported(
        {
            "en": f"{model.record.name} has no BOS or EOS token that windows could begin with. Set BOS to never.",
            "zh": f"{model.record.name} 没有可作为窗口开头的 BOS 或 EOS。请将 BOS 设为 never。",
        }
    )
