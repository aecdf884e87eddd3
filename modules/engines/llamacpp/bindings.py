"""A model loaded by llama.cpp, with one context: the C interface made safe to hold.

Driven through llama-cpp-python's low-level bindings (0.3.36) rather than its `Llama` class, whose work per token grows
with the length of the answer. While one thread decodes, another may use the vocabulary and interrupt.
"""

from __future__ import annotations

import ctypes
import os
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.errors import Unsupported
from modules.core.events import Json, Logprob, TokenLogprobs
from modules.core.worker_errors import LoadFailed
from modules.engines.failure_causes import cause
from modules.engines.llamacpp import library, rpc_backend
from modules.engines.llamacpp.abort_flag import AbortFlag
from modules.engines.llamacpp.arguments import ADD_NODES
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.dry import DrySamplers
from modules.engines.llamacpp.grammar import LlamaGrammars
from modules.engines.llamacpp.vocabulary import Vocabulary

DECODED, CACHE_FULL, ABORTED = 0, 1, 2
"""Results of `llama_decode`: success; no room in the KV cache, which is unchanged; ended by the abort callback."""


class Model:
    """A model with one context. `n_ctx`, `n_batch` and `n_ubatch` count tokens; `n_embd` is the size of an embedding.

    `calls` are those of `llamacpp.arguments`; `progress` gets the loaded fraction, 0 to 1. A second model of a process
    uses the `log` of the first. Raises LoadFailed with
    llama.cpp's own message, Unsupported for a model that cannot generate text.
    """

    def __init__(
        self,
        path: Path,
        calls: Mapping[str, Json],
        progress: Callable[[float], None],
        log: library.NativeLog | None = None,
    ) -> None:
        library.initialize(calls["llama_numa_init"]["numa"] if "llama_numa_init" in calls else 0)
        self.path = path
        self.log = library.NativeLog() if log is None else log
        nodes = _add_nodes(path, calls)
        model = ModelParams(calls["llama_model_load_from_file"], progress)
        self.handle = native.llama_model_load_from_file(os.fsencode(path), model.params)
        if not self.handle:
            raise self._load_failure(path)
        self._require_decoder()
        self.vocabulary = Vocabulary(self.handle)
        context_args = calls["llama_init_from_model"]
        self.context = native.llama_init_from_model(self.handle, self._context_params(context_args))
        if not self.context:
            raise self._load_failure(path)
        rpc_backend.notice_lost_nodes(nodes)
        self.memory = native.llama_get_memory(self.context)
        self.n_ctx: int = native.llama_n_ctx_seq(self.context)
        self.n_batch: int = native.llama_n_batch(self.context)
        self.n_ubatch: int = native.llama_n_ubatch(self.context)
        self.n_embd: int = native.llama_model_n_embd_inp(self.handle)
        self.n_vocab = self.vocabulary.size
        self.grammars = LlamaGrammars(self.vocabulary, self.log)
        self.dry_samplers = DrySamplers(self.vocabulary)
        self.seconds_decoding = 0.0
        self._logits_address, self._logits_rows = 0, list[NDArray[np.float32]]()
        self._all_logits: NDArray[np.float32] = np.empty((0, self.n_vocab), np.float32)
        self._abort = AbortFlag()
        self._shifted: int | None = None  # a sequence whose positions were shifted, which the next decode carries out
        recurrent = native.llama_model_is_recurrent(self.handle) or native.llama_model_is_hybrid(self.handle)
        self.can_truncate = not recurrent
        self.can_share = not recurrent
        self.is_unified = bool(context_args["kv_unified"])
        self.can_shift = not recurrent and bool(native.llama_memory_can_shift(self.memory))

    def _require_decoder(self) -> None:
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
        if not args["kv_unified"] and not args["n_ctx"]:  # llama.cpp divides n_ctx among the sequences
            params.n_ctx = native.llama_model_n_ctx_train(self.handle) * args["n_seq_max"]
        return params

    def _load_failure(self, path: Path) -> LoadFailed:
        message = self.log.last_errors() or "no reason given"
        return LoadFailed("llama.cpp", path.name, message, cause(message))

    def use_threads(self, count: int) -> None:
        """Decode with so many threads from the next step on."""
        native.llama_set_n_threads(self.context, count, native.llama_n_threads_batch(self.context))

    # -- decoding -------------------------------------------------------------------------------------------------

    def decode(self, batch: Batch, interruptible: bool = True) -> int:
        """Evaluate `batch`. Return DECODED, CACHE_FULL, ABORTED, or another code for an error of llama.cpp's.

        A decode that carries out a shift of positions is never interruptible: llama.cpp would shift once more.
        """
        status = self.evaluate(lambda: native.llama_decode(self.context, batch.handle), interruptible)
        if status == DECODED and batch.outputs:
            self._map_logits(batch.outputs)
        return status

    def evaluate(self, decode: Callable[[], int], interruptible: bool) -> int:
        """Call `decode`, which evaluates something in the context, and return its status."""
        self._abort.attach(self.context, interruptible and self._shifted is None)
        started = time.perf_counter()
        status = int(decode())
        self.seconds_decoding += time.perf_counter() - started
        if status == DECODED:
            self._shifted = None
        return status

    def interrupt(self) -> None:
        """End the running decode, and every later one until `resume`. Any thread may call it."""
        self._abort.set()

    def resume(self) -> None:
        self._abort.clear()

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits of one output row of the last batch, shape [n_vocab]: a writable view, not a copy."""
        return self._logits_rows[row]

    def all_logits(self, rows: int) -> NDArray[np.float32]:
        """Return the logits of the first output rows of the last batch, shape [rows, n_vocab]: a view, not a copy."""
        return self._all_logits[:rows]

    def _map_logits(self, rows: int) -> None:
        """Make views of `rows` rows of logits, unless they exist: llama.cpp moves its buffer only to enlarge it."""
        address = ctypes.addressof(native.llama_get_logits(self.context).contents)
        if address != self._logits_address or rows > len(self._logits_rows):
            self._logits_address = address
            row_bytes = self.n_vocab * ctypes.sizeof(ctypes.c_float)
            buffer: Any = (ctypes.c_char * (rows * row_bytes)).from_address(address)
            self._all_logits = np.frombuffer(buffer, np.float32).reshape(rows, self.n_vocab)
            self._logits_rows = list(self._all_logits)

    def token_logprobs(self, row: int, token: int, top: int) -> TokenLogprobs:
        """Return the log probability of `token` in that row and the `top` most likely tokens, before any sampler."""
        logits = self.logits(row).astype(np.float64)
        logprobs = logits - (np.log(np.sum(np.exp(logits - logits.max()))) + logits.max())
        ranked = tuple(self._logprob(candidate, logprobs) for candidate in largest(logits, top))
        return TokenLogprobs(self._logprob(token, logprobs), ranked)

    def _logprob(self, token: int, logprobs: NDArray[np.float64]) -> Logprob:
        return Logprob(self.vocabulary.shown_text(token), round(float(logprobs[token]), 6), token)

    # -- the KV cache ---------------------------------------------------------------------------------------------

    def truncate(self, sequence: int, length: int) -> bool:
        """Drop the positions of `sequence` from `length` on. Return False if this memory cannot be cut there."""
        return bool(native.llama_memory_seq_rm(self.memory, sequence, length, -1))

    def position_range(self, sequence: int) -> tuple[int, int]:
        """Return the first and the last position that `sequence` holds; (-1, -1) if it is empty."""
        memory = self.memory
        return native.llama_memory_seq_pos_min(memory, sequence), native.llama_memory_seq_pos_max(memory, sequence)

    def share_prefix(self, source: int, target: int, length: int) -> bool:
        """Give the empty sequence `target` the first `length` positions of `source`. Return False if that failed.

        In a unified cache the cells get a second owner. In one of separate streams they are copied by main memory, as
        llama.cpp could copy whole streams only.
        """
        if self.is_unified:
            native.llama_memory_seq_cp(self.memory, source, target, 0, length)
            return True
        return self.restore_state(target, self.save_state(source)) and self.truncate(target, length)

    def remove_range(self, sequence: int, begin: int, end: int) -> None:
        """Drop positions `begin` to `end` (exclusive) and shift the later ones left to close the gap."""
        native.llama_memory_seq_rm(self.memory, sequence, begin, end)
        native.llama_memory_seq_add(self.memory, sequence, end, -1, begin - end)
        self._shifted = sequence

    def clear_cache(self) -> None:
        """Drop all positions of all sequences."""
        native.llama_memory_clear(self.memory, True)
        self._shifted = None

    def state_size(self, sequence: int) -> int:
        """Return the bytes that `save_state` would take."""
        return int(native.llama_state_seq_get_size(self.context, sequence))

    def save_state(self, sequence: int) -> NDArray[np.uint8]:
        """Copy the keys and values of `sequence` to main memory, shape [bytes]; empty if that failed."""
        if self._shifted is not None and not self._carry_out_shift(self._shifted):
            return np.empty(0, np.uint8)
        state = np.empty(self.state_size(sequence), np.uint8)
        size = native.llama_state_seq_get_data(self.context, _byte_pointer(state), state.size, sequence)
        return state[:size]

    def _carry_out_shift(self, sequence: int) -> bool:
        """Give keys the positions of their cells, without which a saved state is wrong. Return False if that failed.

        llama.cpp does so before it evaluates something: a token after the end of `sequence`, which is dropped again.
        """
        batch, end = Batch(1), self.position_range(sequence)[1] + 1
        batch.add(array("i", [self.vocabulary.filler_token]), end, sequence, wants_logits=False)
        status = self.decode(batch, interruptible=False)
        self.truncate(sequence, end)
        return status == DECODED

    def restore_state(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Copy a saved state into the empty `sequence`. Return False if the KV cache has no room for it."""
        return bool(native.llama_state_seq_set_data(self.context, _byte_pointer(state), state.size, sequence))


def _add_nodes(path: Path, calls: Mapping[str, Json]) -> list[str]:
    """Make the devices of other machines known to llama.cpp. Return the nodes."""
    nodes: list[str] = calls[ADD_NODES]["endpoint"] if ADD_NODES in calls else []
    if nodes:
        try:
            rpc_backend.load(Path(calls["ggml_backend_load"]["path"]))
            rpc_backend.add_nodes(nodes)
        except rpc_backend.RpcUnusable as error:
            raise LoadFailed("llama.cpp", path.name, str(error)) from error
        rpc_backend.notice_lost_nodes(nodes)
    return nodes


def largest(values: NDArray[np.float64], count: int) -> list[int]:
    """Return the indices of the `count` largest of `values`, the largest first."""
    best = np.argpartition(-values, count)[:count] if count else np.empty(0, int)
    return sorted(best.tolist(), key=lambda index: -values[index])


def _byte_pointer(state: NDArray[np.uint8]) -> object:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class ModelParams:
    """`llama_model_params`, together with what must stay alive while llama.cpp loads."""

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
            self._no_devices = (ctypes.c_void_p * 1)(None)
            self.params.devices = ctypes.cast(self._no_devices, ctypes.c_void_p)

        def report(fraction: float, _user: object) -> bool:
            progress(fraction)
            return True

        self._callback = native.llama_progress_callback(report)
        self.params.progress_callback = self._callback
