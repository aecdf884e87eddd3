"""Translate load options into llama.cpp's calls for a model that computes vectors or scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modules.core.errors import ModelProblem
from modules.core.events import Json, Note
from modules.engines.llamacpp.arguments import DRAFT, Build, Options, arguments
from modules.engines.llamacpp.notes import notes
from modules.formats.embedding import POOLING_LAST, POOLING_MEAN, gguf_task, is_encoder
from modules.formats.gguf_header import GgufHeader, read_header
from modules.options.load_llamacpp import AUTO

LONGEST_TEXT = 8192
"""Tokens of a text at most, whatever the model states: attention over a text takes memory by the square of its length
where llama.cpp has no flash attention for it."""
PACKED_TOKENS = 512
"""Tokens of several texts that are computed together at most. More is slower: each text attends to those of all."""
_PACKED_LOGITS = 1 << 25
"""Logits of a step at most, unless a single text has more. llama.cpp clears room for the logits of every token, though
an embedding model has none: 1 MB a token with the 250,000 tokens of XLM-R."""
MAX_TEXTS = 32
"""Texts that are computed together at most."""

_UNUSED = ("type_k", "type_v")
_GENERATION_ONLY = ("streaming_llm", "cache_4bit", "cache_8bit", "kv_unified", "model_draft")
_NO_EFFECT = {
    "en": "No effect: this model computes vectors or scores and generates no text.",
    "zh": "无效：此模型只计算向量或分数，不生成文本。",
}


def embedding_header(path: Path) -> GgufHeader | None:
    """Return the header of the GGUF file at `path` if it is of a model that computes vectors or scores, else None."""
    try:
        header = read_header(path)
    except (ModelProblem, OSError):  # llama.cpp reports it
        return None
    return header if gguf_task(header) else None


def embedding_arguments(path: Path, options: Options, build: Build, header: GgufHeader) -> dict[str, Json]:
    """Return the calls that load `path`, as `arguments` does for models that generate text."""
    calls = arguments(path, options, build)
    batch = step_tokens(header, options)
    context = {name: value for name, value in calls["llama_init_from_model"].items() if name not in _UNUSED}
    calls["llama_init_from_model"] = context | {
        "n_ctx": max(longest_text(header, options), batch),
        "n_batch": batch,
        "n_ubatch": batch,
        "n_seq_max": MAX_TEXTS,
        "kv_unified": True,
        "flash_attn_type": 1,
        "embeddings": True,
        "pooling_type": pooling_type(header),
    }
    for other in ("llama_memory_seq_add", DRAFT):
        calls.pop(other, None)
    return calls


def embedding_notes(path: Path, options: Options, build: Build) -> Iterator[Note]:
    """Yield the notes of `notes`, but for the options that matter to the generation of text only."""
    yield from (note for note in notes(path, options, build) if note.option not in _GENERATION_ONLY)
    yield from (Note(key, _NO_EFFECT) for key in _GENERATION_ONLY if options.get(key) not in (None, False, "", AUTO))


def pooling_type(header: GgufHeader) -> int:
    """Return how the vectors of tokens become one: the file's way; the mean for a file that says none."""
    pooling = header.numbers.get("pooling_type", 0)
    return pooling if isinstance(pooling, int) and pooling else POOLING_MEAN


def splits_texts(header: GgufHeader) -> bool:
    """Whether a long text may be computed in pieces: where each token sees those before it, and the last one counts."""
    return pooling_type(header) == POOLING_LAST and not is_encoder(header)


def packed_tokens(header: GgufHeader) -> int:
    """Return how many tokens of several texts are computed together."""
    return max(min(PACKED_TOKENS, _PACKED_LOGITS // max(vocabulary_size(header), 1)), 1)


def step_tokens(header: GgufHeader, options: Options) -> int:
    """Return the tokens that one step computes at most."""
    packed = packed_tokens(header)
    return packed if splits_texts(header) else max(longest_text(header, options), packed)


def logit_bytes(header: GgufHeader, options: Options) -> int:
    """Return the bytes of the logits that llama.cpp makes room for."""
    return 4 * vocabulary_size(header) * step_tokens(header, options)


def vocabulary_size(header: GgufHeader) -> int:
    count = header.numbers.get("tokenizer.ggml.tokens", 0)
    return count if isinstance(count, int) else 0


def longest_text(header: GgufHeader, options: Options) -> int:
    """Return the tokens of a text at most: `n_ctx`, but never more than the model has positions for."""
    own = header.context_length or PACKED_TOKENS
    return min(int(options["n_ctx"]) or own, own, LONGEST_TEXT)
