"""GGUF models that compute vectors of texts or scores of documents, through llama.cpp."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.events import Info, Json
from modules.core.worker_errors import GenerationFailed, LoadFailed
from modules.engines.embedding_engine import EmbeddingEngine, Encoded, packed, sigmoid
from modules.engines.engine_protocol import Operations, Report
from modules.engines.failure_causes import cause
from modules.engines.llamacpp import library
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import DECODED, ModelParams
from modules.engines.llamacpp.embedding_arguments import (
    embedding_arguments,
    embedding_notes,
    longest_text,
    packed_tokens,
    splits_texts,
)
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.engines.llamacpp.tokenizer import Tokenizer
from modules.engines.llamacpp.vocabulary import Vocabulary
from modules.engines.progress import whole_percents
from modules.formats.embedding import RANK, gguf_task, may_be_shortened
from modules.formats.gguf_header import GgufHeader
from modules.options.option import Value
from modules.system import cpu_memory

_RANK_TEMPLATE = "rerank"
"""The named chat template with {query} and {document} that a decoder trained to rank comes with."""


class LlamaEmbedding(EmbeddingEngine):
    """A `SerialEngine` on one GGUF model; `header` is that of the file. Raises LoadFailed with llama.cpp's message."""

    def __init__(self, path: Path, options: Mapping[str, Value], header: GgufHeader, report: Report) -> None:
        build = installed_build()
        self.name = path.name
        self.longest = longest_text(header, options)
        self._header = header
        calls = embedding_arguments(path, options, build, header)
        self._context = _Context(path, calls, whole_percents(report), splits_texts(header))
        self._packed = packed_tokens(header)
        self._vocabulary = self._context.vocabulary
        self.questions: Operations = Tokenizer(self._vocabulary).questions
        self._is_ranking = gguf_task(header) == RANK
        self._width = self._context.labels if self._is_ranking else self._context.width
        self.compute([Encoded([self._vocabulary.filler_token])])  # the first request need not wait for page faults
        self.info = Info(
            context_length=self.longest,
            special_tokens=self._vocabulary.special_tokens,
            memory=cpu_memory.resident_memory(),
            notes=tuple(embedding_notes(path, options, build)),
            vocabulary_size=self._vocabulary.size,
            task=gguf_task(header),
            dimensions=0 if self._is_ranking else self._width,
            may_shorten=may_be_shortened(path.name, header.name),
        )
        bind_threads = ComputeThreads(self._context.handle, calls).bind
        self.operations: Operations = {**self.task_operations(), "bind_threads": bind_threads}

    def encode(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=True).tolist()

    def encode_pair(self, query: str, document: str) -> Encoded:
        """Join both texts by the model's own template, else by the special tokens that its file asks for."""
        if template := self._header.named_templates.get(_RANK_TEMPLATE):
            before, _, after = template.partition("{document}")
            text = before.replace("{query}", query) + document + after.replace("{query}", query)
            return Encoded(self._vocabulary.tokenize(text, add_special=False).tolist())
        begin, end = self.special_tokens()
        handle = self._vocabulary.handle
        has_both = native.llama_vocab_get_add_eos(handle) and native.llama_vocab_get_add_sep(handle)
        between = [native.llama_vocab_sep(handle)] if has_both else []
        texts = [self._vocabulary.tokenize(text, add_special=False).tolist() for text in (query, document)]
        return Encoded([*begin, *texts[0], *end, *between, *texts[1], *end])

    def compute(self, texts: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return vectors [texts, dimensions], or the chance that each document is relevant [texts, 1]."""
        results = np.empty((len(texts), self._width), np.float32)
        for group in packed(texts, _total_tokens, self._packed, self._context.max_texts):
            results[group] = self._context.evaluate([texts[index].tokens for index in group], self._width)
        # Of two labels llama.cpp gives their chances, that of the first one being relevant.
        return sigmoid(results) if self._is_ranking and self._width == 1 else results


def _total_tokens(texts: Sequence[Encoded]) -> int:
    return sum(len(text.tokens) for text in texts)


class _Context:
    """A model with a context that returns vectors. `labels` is the number of scores of one that ranks."""

    def __init__(self, path: Path, calls: Mapping[str, Json], progress: Callable[[float], None], splits: bool) -> None:
        library.initialize(calls["llama_numa_init"]["numa"] if "llama_numa_init" in calls else 0)
        self._log = library.NativeLog()
        self._splits = splits
        params = ModelParams(calls["llama_model_load_from_file"], progress)
        self._model = native.llama_model_load_from_file(os.fsencode(path), params.params)
        if not self._model:
            raise self._failure(path)
        args = calls["llama_init_from_model"]
        context_params = native.llama_context_default_params()
        for name, value in args.items():
            setattr(context_params, name, value)
        self.handle = native.llama_init_from_model(self._model, context_params)
        if not self.handle:
            raise self._failure(path)
        self.vocabulary = Vocabulary(self._model)
        self.width = int(native.llama_model_n_embd_out(self._model))
        self.labels = int(native.llama_model_n_cls_out(self._model))
        self.max_texts = int(args["n_seq_max"])
        self._batch = Batch(int(args["n_batch"]))
        self._memory = native.llama_get_memory(self.handle)

    def _failure(self, path: Path) -> LoadFailed:
        message = self._log.last_errors() or "no reason given"
        return LoadFailed("llama.cpp", path.name, message, cause(message))

    def evaluate(self, texts: Sequence[Sequence[int]], width: int) -> NDArray[np.float32]:
        """Return what llama.cpp pools of each text, shape [texts, width]. Raises GenerationFailed."""
        if self._memory:
            native.llama_memory_clear(self._memory, True)
        if self._splits and len(texts) == 1:
            self._decode_in_pieces(array("i", texts[0]))
        else:
            self._batch.clear()
            for number, text in enumerate(texts):
                self._batch.add_outputs(array("i", text), 0, number)
            self._decode()
        return np.stack([self._pooled(number, width) for number in range(len(texts))])

    def _decode_in_pieces(self, tokens: array[int]) -> None:
        for begin in range(0, len(tokens), self._batch.capacity):
            self._batch.clear()
            self._batch.add_outputs(tokens[begin : begin + self._batch.capacity], begin, 0)
            self._decode()

    def _decode(self) -> None:
        status = native.llama_decode(self.handle, self._batch.handle)
        if status != DECODED:
            raise GenerationFailed("llama.cpp", f"llama_decode failed with status {status}")

    def _pooled(self, number: int, width: int) -> NDArray[np.float32]:
        pointer: Any = native.llama_get_embeddings_seq(self.handle, number)
        if not pointer:
            raise GenerationFailed("llama.cpp", "it returned no vector of a text")
        address = ctypes.addressof(pointer.contents)
        buffer: Any = (ctypes.c_float * width).from_address(address)
        vector: NDArray[np.float32] = np.frombuffer(buffer, np.float32).copy()
        return vector
