"""llama.cpp's C interface, made safe to hold: a loaded model with its context, a batch, a sampler chain.

Driven through llama-cpp-python's low-level bindings (0.3.36) rather than its `Llama` class, whose per-token work grows
with the length of the answer. Nothing here is safe to call from a second thread while the first one decodes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.errors import LoadFailed, Unsupported
from modules.events import Json, Logprob, TokenChances

_MULTIPLE = 2**32  # llama.cpp's sampler seeds are 32 bits wide

_DEBUG_LEVEL, _ERROR_LEVEL = 1, 4


@cache
def start(numa: int = 0) -> None:
    """Prepare the library, once in a process's life."""
    native.llama_backend_init()
    if numa:
        native.llama_numa_init(numa)


class _Journal:
    """What llama.cpp says: passed on to stderr, where the parent keeps it, its errors kept for our own messages."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._stderr = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        self._callback = native.llama_log_callback(self._take)
        native.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user: object) -> None:
        if level == _DEBUG_LEVEL:
            return
        with contextlib.suppress(OSError):
            self._stderr.write(text)
        if level == _ERROR_LEVEL:
            self.errors.append(text.decode("utf-8", "replace").strip())


class Model:
    """A model with one context. `calls` is what `llamacpp.arguments` made; LoadFailed carries llama.cpp's own words."""

    def __init__(self, path: Path, calls: Mapping[str, Json], progress: Callable[[float], None]) -> None:
        start(calls["llama_numa_init"]["numa"] if "llama_numa_init" in calls else 0)
        self._journal = _Journal()
        model = _model_params(calls["llama_model_load_from_file"], progress)
        self.handle = native.llama_model_load_from_file(os.fsencode(path), model.params)
        if not self.handle:
            raise self._failed(path)
        self.vocab = native.llama_model_get_vocab(self.handle)
        self._refuse_what_cannot_answer()
        self.context = native.llama_init_from_model(self.handle, _context_params(calls["llama_init_from_model"]))
        if not self.context:
            raise self._failed(path)
        self.memory = native.llama_get_memory(self.context)
        self.n_ctx: int = native.llama_n_ctx(self.context)
        self.n_batch: int = native.llama_n_batch(self.context)
        self.n_vocab: int = native.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}

    def _refuse_what_cannot_answer(self) -> None:
        if native.llama_model_has_encoder(self.handle) or not native.llama_model_has_decoder(self.handle):
            raise Unsupported(
                {
                    "en": "This is an encoder model (for embeddings or translation); it cannot chat or complete text.",
                    "zh": "这是编码器类模型（用于嵌入或翻译），不能聊天或续写。",
                }
            )

    def _failed(self, path: Path) -> LoadFailed:
        words = " / ".join(dict.fromkeys(self._journal.errors[-3:])) or "no reason given"
        return LoadFailed("llama.cpp", path.name, words)

    def tokenize(self, text: str, add_special: bool) -> list[int]:
        """The tokens of `text`; names of special tokens in it become those tokens."""
        raw = text.encode("utf-8", "replace")  # JSON can carry half a surrogate pair
        size = len(raw) + 8  # hardly ever more tokens than bytes, but for BOS, EOS and a space before the text
        while True:
            tokens = (native.llama_token * size)()
            count = native.llama_tokenize(self.vocab, raw, len(raw), tokens, size, add_special, True)
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token; a control token has none unless `special`."""
        if special:
            return self._piece(token, True)
        if token not in self._pieces:
            self._pieces[token] = self._piece(token, False)
        return self._pieces[token]

    def _piece(self, token: int, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = native.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def ends(self, token: int) -> bool:
        """Whether `token` is one of the model's end-of-generation tokens."""
        return bool(native.llama_vocab_is_eog(self.vocab, token))

    def special(self, token: int) -> str:
        """The text of a special token; "" for the -1 of a vocabulary that lacks it."""
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    @property
    def bos(self) -> int:
        return int(native.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        return int(native.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(native.llama_vocab_get_add_bos(self.vocab))

    def decode(self, batch: Batch) -> int:
        """Evaluate `batch`: 0, or what `llama_decode` answers when it cannot (1: no room in the cache)."""
        return int(native.llama_decode(self.context, batch.handle))

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits of one row of the last batch that asked for them, shape (n_vocab,); a view, not a copy."""
        return np.ctypeslib.as_array(native.llama_get_logits_ith(self.context, row), shape=(self.n_vocab,))

    @staticmethod
    def offloads() -> bool:
        """Whether the library was compiled for a GPU."""
        return bool(native.llama_supports_gpu_offload())

    @staticmethod
    def max_devices() -> int:
        return int(native.llama_max_devices())

    @staticmethod
    def has_amx() -> bool:
        return b"AMX_INT8 = 1" in native.llama_print_system_info()

    def keep(self, sequence: int, length: int) -> bool:
        """Forget what `sequence` holds beyond its first `length` tokens; False if this memory can not be cut there."""
        return bool(native.llama_memory_seq_rm(self.memory, sequence, length, -1))

    def clear(self) -> None:
        """Forget all that was evaluated, of every sequence."""
        native.llama_memory_clear(self.memory, True)

    def chances(self, row: int, token: int, top: int) -> TokenChances:
        """How likely `token` was at that row, and the `top` likeliest, before any sampler changed them."""
        logits = self.logits(row).astype(np.float64)
        logprobs = logits - (np.log(np.sum(np.exp(logits - logits.max()))) + logits.max())
        best = np.argpartition(-logits, top)[:top] if top else np.empty(0, int)
        ranked = sorted(best.tolist(), key=lambda each: -logits[each])
        return TokenChances(self._chance(token, logprobs), tuple(self._chance(each, logprobs) for each in ranked))

    def _chance(self, token: int, logprobs: NDArray[np.float64]) -> Logprob:
        return Logprob(self.piece(token, special=True).decode("utf-8", "replace"), round(float(logprobs[token]), 6))


class Batch:
    """Tokens to evaluate in one go, at most `capacity`, each of one sequence. Allocated once, filled many times."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.handle = native.llama_batch_init(capacity, 0, 1)

    def clear(self) -> None:
        self.handle.n_tokens = 0

    @property
    def room(self) -> int:
        return int(self.capacity - self.handle.n_tokens)

    def add(self, token: int, position: int, sequence: int, wants_logits: bool) -> int:
        """Append a token; its row, under which its logits can be asked for after decoding."""
        batch, row = self.handle, int(self.handle.n_tokens)
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = wants_logits
        batch.n_tokens = row + 1
        return row


class Sampler:
    """The native sampler chain for one generation's parameters. It must be told of the prompt to penalise its words."""

    def __init__(self, model: Model, params: Mapping[str, Json], prompt: Sequence[int]) -> None:
        self._context = model.context
        self._chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for sampler in _samplers(model.n_vocab, params):
            native.llama_sampler_chain_add(self._chain, sampler)
        if _penalises(params):
            for token in prompt[-_window(params) :]:
                native.llama_sampler_accept(self._chain, token)

    def sample(self, row: int) -> int:
        """Draw a token from the logits of that row, and remember it."""
        return int(native.llama_sampler_sample(self._chain, self._context, row))

    def free(self) -> None:
        native.llama_sampler_free(self._chain)


def _penalises(params: Mapping[str, Json]) -> bool:
    neutral = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
    return any(params[key] != value for key, value in neutral.items())


def _window(params: Mapping[str, Json]) -> int:
    """The tokens that penalties look back over. llama.cpp allocates them at once, so "all" needs an end."""
    return int(params["repetition_penalty_range"]) or 1 << 17


def _samplers(n_vocab: int, params: Mapping[str, Json]) -> list[object]:
    """In llama.cpp's own order: penalties, what cuts the tail, temperature, the draw. Neutral ones are left out."""
    chain: list[object] = []
    if _penalises(params):
        penalties = (params["repetition_penalty"], params["frequency_penalty"], params["presence_penalty"])
        chain.append(native.llama_sampler_init_penalties(n_vocab, _window(params), *penalties))
    if params["temperature"] <= 0:
        return [*chain, native.llama_sampler_init_greedy()]
    if params["top_k"] > 0:
        chain.append(native.llama_sampler_init_top_k(params["top_k"]))
    if params["top_p"] < 1:
        chain.append(native.llama_sampler_init_top_p(params["top_p"], 1))
    if params["min_p"] > 0:
        chain.append(native.llama_sampler_init_min_p(params["min_p"], 1))
    seed = params["seed"] if params["seed"] >= 0 else random.randrange(_MULTIPLE - 1)
    chain.append(native.llama_sampler_init_temp(params["temperature"]))
    return [*chain, native.llama_sampler_init_dist(seed)]


class _model_params:
    """`llama_model_params` with what must stay alive as long as llama.cpp may use it."""

    def __init__(self, args: Mapping[str, Json], progress: Callable[[float], None]) -> None:
        self.params = native.llama_model_default_params()
        for name, value in args.items():
            if name not in ("path_model", "tensor_split", "devices"):
                setattr(self.params, name, value)
        if "tensor_split" in args:
            devices = native.llama_max_devices()
            self._split = (ctypes.c_float * devices)(*args["tensor_split"][:devices])
            self.params.tensor_split = self._split
        if args.get("devices") == []:
            self._none = (ctypes.c_void_p * 1)(None)
            self.params.devices = ctypes.cast(self._none, ctypes.c_void_p)

        def advance(done: float, _user: object) -> bool:
            progress(done)
            return True

        self._callback = native.llama_progress_callback(advance)
        self.params.progress_callback = self._callback


def _context_params(args: Mapping[str, Json]) -> object:
    params = native.llama_context_default_params()
    for name, value in args.items():
        setattr(params, name, value)
    return params
