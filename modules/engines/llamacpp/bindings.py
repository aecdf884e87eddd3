"""llama.cpp's C interface, made safe to hold: a loaded model with its context, and a batch.

Driven through llama-cpp-python's low-level bindings (0.3.36) rather than its `Llama` class, whose per-token work grows
with the length of the answer. While one thread decodes, another may tokenize, ask for pieces, and interrupt.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from array import array
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.errors import LoadFailed, OptionError, Unsupported
from modules.core.events import Json, Logprob, TokenChances
from modules.engines.failure_causes import cause

DECODED, FULL, ABORTED = 0, 1, 2
"""What `llama_decode` answers: all done; no room in the cache, nothing was changed; the alarm ended it."""

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
        self.context = native.llama_init_from_model(self.handle, self._context_params(calls["llama_init_from_model"]))
        if not self.context:
            raise self._failed(path)
        self.memory = native.llama_get_memory(self.context)
        self.n_ctx: int = native.llama_n_ctx_seq(self.context)
        self.n_batch: int = native.llama_n_batch(self.context)
        self.n_vocab: int = native.llama_vocab_n_tokens(self.vocab)
        self.seconds_decoding = 0.0
        self._pieces: dict[int, bytes] = {}
        self._address, self._rows = 0, list[NDArray[np.float32]]()
        self._alarm = Alarm()
        self._moved = False  # positions were shifted, which the next decode carries out
        recurrent = native.llama_model_is_recurrent(self.handle) or native.llama_model_is_hybrid(self.handle)
        self.can_cut = not recurrent
        self.can_share = not recurrent and bool(calls["llama_init_from_model"]["kv_unified"])
        self.can_shift = not recurrent and bool(native.llama_memory_can_shift(self.memory))

    def _refuse_what_cannot_answer(self) -> None:
        if native.llama_model_has_encoder(self.handle) or not native.llama_model_has_decoder(self.handle):
            raise Unsupported(
                {
                    "en": "This is an encoder model (for embeddings or translation); it cannot chat or complete text.",
                    "zh": "这是编码器类模型（用于嵌入或翻译），不能聊天或续写。",
                }
            )

    def _context_params(self, args: Mapping[str, Json]) -> object:
        params = native.llama_context_default_params()
        for name, value in args.items():
            setattr(params, name, value)
        if not args["kv_unified"] and not args["n_ctx"]:  # the library would share out what the model can
            params.n_ctx = native.llama_model_n_ctx_train(self.handle) * args["n_seq_max"]
        return params

    def _failed(self, path: Path) -> LoadFailed:
        words = " / ".join(dict.fromkeys(self._journal.errors[-3:])) or "no reason given"
        return LoadFailed("llama.cpp", path.name, words, cause(words))

    def tokenize(self, text: str, add_special: bool) -> array[int]:
        """The tokens of `text`; names of special tokens in it become those tokens. Any thread may ask."""
        raw = text.encode("utf-8", "replace")  # JSON can carry half a surrogate pair
        size = len(raw) + 8  # hardly ever more tokens than bytes, but for BOS, EOS and a space before the text
        while True:
            tokens = (native.llama_token * size)()
            count = native.llama_tokenize(self.vocab, raw, len(raw), tokens, size, add_special, True)
            if count >= 0:
                return array("i", tokens[:count])
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

    def written(self, token: int) -> str | None:
        """A token as its vocabulary writes it down, such as "▁the" or "Ġthe"; None for one that nobody uses."""
        if native.llama_vocab_get_attr(self.vocab, token) & native.LLAMA_TOKEN_ATTR_UNUSED:
            return None
        text: bytes = native.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace")

    def check_token(self, option: str, token: int) -> None:
        """OptionError for a number that is no token: llama.cpp would abort the process."""
        if not 0 <= token < self.n_vocab:
            last = self.n_vocab - 1
            raise OptionError(option, token, {"en": f"tokens from 0 to {last}", "zh": f" 0 到 {last} 之间的词符"})

    def ends(self, token: int) -> bool:
        """Whether `token` is one of the model's end-of-generation tokens."""
        return bool(native.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end an answer."""
        return tuple(token for token in range(self.n_vocab) if self.ends(token))

    @property
    def complaints(self) -> list[str]:
        """What llama.cpp has called an error so far, in its own words."""
        return self._journal.errors

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

    # -- evaluating -----------------------------------------------------------------------------------------------

    def decode(self, batch: Batch, may_break_off: bool = True) -> int:
        """Evaluate `batch`: DECODED, FULL or ABORTED; anything else is an error of llama.cpp's.

        A shift of positions is carried out here first and must not be broken off: llama.cpp would do it once more.
        """
        self._alarm.watch(self.context, may_break_off and not self._moved)
        began = time.perf_counter()
        status = int(native.llama_decode(self.context, batch.handle))
        self.seconds_decoding += time.perf_counter() - began
        if status == DECODED:
            self._moved = False
            if batch.outputs:
                self._look_at_logits(batch.outputs)
        return status

    def interrupt(self) -> None:
        """From any thread: end the `decode` under way, or the next one, until `resume` is called."""
        self._alarm.ring()

    def resume(self) -> None:
        self._alarm.quiet()

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits of one row of the last batch, of those that asked for them, shape (n_vocab,); a view, no copy."""
        return self._rows[row]

    def _look_at_logits(self, rows: int) -> None:
        """Make views of so many rows, unless there are: the buffer stays where it is until more are asked for."""
        address = ctypes.addressof(native.llama_get_logits(self.context).contents)
        if address != self._address or rows > len(self._rows):
            self._address = address
            size = self.n_vocab * ctypes.sizeof(ctypes.c_float)
            whole: Any = (ctypes.c_char * (rows * size)).from_address(address)
            self._rows = list(np.frombuffer(whole, np.float32).reshape(rows, self.n_vocab))

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

    # -- the cache ------------------------------------------------------------------------------------------------

    def keep(self, sequence: int, length: int) -> bool:
        """Forget what `sequence` holds beyond its first `length` tokens; False if this memory can not be cut there."""
        return bool(native.llama_memory_seq_rm(self.memory, sequence, length, -1))

    def span(self, sequence: int) -> tuple[int, int]:
        """The first and the last position that `sequence` holds; (-1, -1) if it holds nothing."""
        memory = self.memory
        return native.llama_memory_seq_pos_min(memory, sequence), native.llama_memory_seq_pos_max(memory, sequence)

    def share(self, source: int, target: int, length: int) -> None:
        """Let `target`, which must be empty, own the first `length` cells of `source` too. Nothing is copied."""
        native.llama_memory_seq_cp(self.memory, source, target, 0, length)

    def close_gap(self, sequence: int, begin: int, end: int) -> None:
        """Forget positions `begin` to `end` (exclusive) and move what comes after them to their place."""
        native.llama_memory_seq_rm(self.memory, sequence, begin, end)
        native.llama_memory_seq_add(self.memory, sequence, end, -1, begin - end)
        self._moved = True

    def clear(self) -> None:
        """Forget all that was evaluated, of every sequence."""
        native.llama_memory_clear(self.memory, True)
        self._moved = False

    def state_size(self, sequence: int) -> int:
        """Bytes that `save` would take."""
        return int(native.llama_state_seq_get_size(self.context, sequence))

    def save(self, sequence: int) -> NDArray[np.uint8]:
        """What `sequence` holds, as bytes that `restore` takes; empty if it could not be had."""
        state = np.empty(self.state_size(sequence), np.uint8)
        size = native.llama_state_seq_get_data(self.context, _bytes(state), state.size, sequence)
        return state[:size]

    def restore(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Put what `save` gave into `sequence`, which must be empty. False if there is no room for it."""
        return bool(native.llama_state_seq_set_data(self.context, _bytes(state), state.size, sequence))

    # -- chances --------------------------------------------------------------------------------------------------

    def chances(self, row: int, token: int, top: int) -> TokenChances:
        """How likely `token` was at that row, and the `top` likeliest, before any sampler changed them."""
        logits = self.logits(row).astype(np.float64)
        logprobs = logits - (np.log(np.sum(np.exp(logits - logits.max()))) + logits.max())
        best = np.argpartition(-logits, top)[:top] if top else np.empty(0, int)
        ranked = sorted(best.tolist(), key=lambda each: -logits[each])
        return TokenChances(self._chance(token, logprobs), tuple(self._chance(each, logprobs) for each in ranked))

    def _chance(self, token: int, logprobs: NDArray[np.float64]) -> Logprob:
        return Logprob(self.piece(token, special=True).decode("utf-8", "replace"), round(float(logprobs[token]), 6))


class Alarm:
    """One byte that llama.cpp looks at while it computes, so that another thread can end that within a millisecond.

    llama.cpp calls its abort callback once per node of the graph, a thousand times a token. A Python function would
    need the GIL each time; so the callback is C's `strlen` and what it measures is our byte: 0 goes on, 1 ends.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
        self._length = ctypes.cast(library.strlen, native.ggml_abort_callback)
        self._never = native.ggml_abort_callback()
        self._byte = ctypes.create_string_buffer(2)
        self._watching: bool | None = None

    def watch(self, context: object, wanted: bool) -> None:
        if wanted is not self._watching:
            self._watching = wanted
            callback = self._length if wanted else self._never
            native.llama_set_abort_callback(context, callback, ctypes.cast(self._byte, ctypes.c_void_p))

    def ring(self) -> None:
        self._byte[0] = b"\1"

    def quiet(self) -> None:
        self._byte[0] = b"\0"


class Batch:
    """Tokens to evaluate in one go, at most `capacity`, each of one sequence. Allocated once, filled many times."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens, self._positions, self._sequences = (np.zeros(capacity, np.int32) for _ in range(3))
        self._wanted = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        # Each token's list of sequences has one member: its place in `_sequences`.
        self._lists = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        fields = dict(native.llama_batch._fields_)
        columns: dict[str, NDArray[Any]] = {"token": self._tokens, "pos": self._positions, "n_seq_id": self._counts}
        columns |= {"seq_id": self._lists, "logits": self._wanted}
        pointers = {name: ctypes.cast(column.ctypes.data, fields[name]) for name, column in columns.items()}
        self.handle = native.llama_batch(n_tokens=0, **pointers)
        self._token, self._position, self._want = pointers["token"], pointers["pos"], pointers["logits"]
        self._sequence = ctypes.cast(self._sequences.ctypes.data, fields["token"])
        self.outputs = 0  # how many of them ask for logits

    def __len__(self) -> int:
        return int(self.handle.n_tokens)

    def clear(self) -> None:
        self.handle.n_tokens = 0
        self.outputs = 0

    def add(self, tokens: array[int], position: int, sequence: int, wants_logits: bool) -> int:
        """Append `tokens`; the row that the logits of the last one will have, -1 if they are not wanted."""
        begin, end = len(self), len(self) + len(tokens)
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = range(position, position + len(tokens))
        self._sequences[begin:end] = sequence
        self._wanted[begin:end] = 0
        self._wanted[end - 1] = wants_logits
        self.handle.n_tokens = end
        self.outputs += wants_logits
        return self.outputs - 1 if wants_logits else -1

    def add_one(self, token: int, position: int, sequence: int) -> int:
        """`add` for a single token whose logits are wanted, in a tenth of the time: once a token of every answer."""
        handle = self.handle
        row: int = handle.n_tokens
        self._token[row], self._position[row], self._want[row] = token, position, 1
        self._sequence[row] = sequence
        handle.n_tokens = row + 1
        self.outputs += 1
        return self.outputs - 1


def _bytes(state: NDArray[np.uint8]) -> object:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


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
