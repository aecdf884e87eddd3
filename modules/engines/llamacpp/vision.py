"""Pictures for a GGUF model, by llama.cpp's library mtmd and the vision part of the model (mmproj).

A picture becomes tokens of text around one or more chunks: the whole picture and perhaps tiles of it. Encoding a chunk
computes its embeddings, and decoding these puts them into the KV cache. Among the tokens of a prompt, a chunk has an
entry for each of its cells in the KV cache (see `image_cells`), but it may take fewer positions.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from numpy.typing import NDArray

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.prompt import Image
from modules.core.recent import Recent
from modules.core.worker_errors import GenerationFailed, ImageUnreadable
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.image_cells import FIRST_CELLS
from modules.engines.pictures import decode_picture

KEPT_IMAGES = 8
"""Pictures that stay ready to be encoded: a conversation sends its pictures with every request."""
KEPT_EMBEDDING_BYTES = 64 << 20
"""Embeddings that are kept, for prompts whose cells were evicted from the KV cache."""


class NoVision(Exception):
    """The vision part cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class ImageChunk:
    """A picture, or a tile of one. It takes `cells` of the KV cache and `positions` of its sequence."""

    first: int
    cells: int
    positions: int
    handle: Any = field(repr=False)

    @property
    def entries(self) -> list[int]:
        """The entries among the tokens of a prompt that stand for the chunk."""
        return [self.first] + [self.first - 1] * (self.cells - 1)


@dataclass(frozen=True)
class ImageTokens:
    """A picture in a prompt: its tokens, and the chunks among them by their first entries."""

    tokens: tuple[int, ...]
    chunks: Mapping[int, ImageChunk]


class Vision:
    """The vision part of `model`. Raises NoVision if it cannot be loaded or reads no pictures.

    `args` are those of `mtmd_init_from_file` in `llamacpp.arguments`. `read` may be called by any thread, `encode` and
    `decode` by the one that decodes.
    """

    def __init__(self, path: Path, model: Model, args: Mapping[str, Json]) -> None:
        mtmd.mtmd_log_set(model.log.callback, ctypes.c_void_p(0))
        mtmd.mtmd_helper_log_set(model.log.callback, ctypes.c_void_p(0))
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings = args["use_gpu"], args["n_threads"], False
        mark = len(model.log)
        self._context = mtmd.mtmd_init_from_file(os.fsencode(path), model.handle, params)
        if not self._context:
            raise NoVision(model.log.errors_since(mark) or "no reason given")
        if not mtmd.mtmd_support_vision(self._context):
            raise NoVision("it reads sound only")
        self._model = model
        self._numbers: dict[tuple[str, int], int] = {}
        self._next_number = itertools.count(FIRST_CELLS, 2)
        self._images: Recent[str, ImageTokens] = Recent(KEPT_IMAGES)
        self._embeddings: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        self._encoded = 0

    def describe(self) -> Json:
        """Return how many chunks have been encoded so far."""
        return {"encoded": self._encoded}

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, images: Sequence[Image]) -> tuple[ImageTokens | None, ...]:
        """Return the tokens of each picture, None for those without data. Raises ImageUnreadable or Unsupported."""
        return tuple(self._read(image) if image.data else None for image in images)

    def _read(self, image: Image) -> ImageTokens:
        with self._lock:
            if (known := self._images.get(image.id)) is not None:
                self._images[image.id] = known
                return known
        pixels = np.ascontiguousarray(decode_picture(image.data), np.uint8)
        with self._lock:  # the numbers of chunks must not depend on which thread comes first
            tokens = self._images[image.id] = self._tokenize(image.id, pixels)
        return tokens

    def _tokenize(self, image_id: str, pixels: NDArray[np.uint8]) -> ImageTokens:
        height, width, _ = pixels.shape
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            mtmd.mtmd_bitmap_set_id(bitmap, image_id.encode())
            part = mtmd.mtmd_input_part(text=None, bitmap=bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            status = mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False)
            if status:
                raise ImageUnreadable(f"mtmd_tokenize failed with status {status}")
            handles = [
                mtmd.mtmd_input_chunks_get(chunks, index) for index in range(mtmd.mtmd_input_chunks_size(chunks))
            ]
            return self._image_tokens(image_id, handles)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _image_tokens(self, image_id: str, handles: Sequence[Any]) -> ImageTokens:
        tokens, chunks = list[int](), dict[int, ImageChunk]()
        for handle in handles:
            if mtmd.mtmd_input_chunk_get_type(handle) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                tokens.extend(_text_tokens(handle))
                continue
            chunk = self._chunk(image_id, len(chunks), handle)
            tokens.extend(chunk.entries)
            chunks[chunk.first] = chunk
        return ImageTokens(tuple(tokens), chunks)

    def _chunk(self, image_id: str, index: int, handle: Any) -> ImageChunk:
        cells = mtmd.mtmd_input_chunk_get_n_tokens(handle)
        if cells > self._model.n_ubatch and mtmd.mtmd_decode_use_non_causal(self._context, handle):
            raise Unsupported(
                {
                    "en": f"An image of {cells} tokens must be computed in one batch. Load the model again with an "
                    f"n_batch of {cells} or more.",
                    "zh": f"图片有 {cells} 个词符，须在一个批次内计算。"
                    f"请将“批处理大小”设为 {cells} 或更大，然后重新加载模型。",
                }
            )
        number = self._numbers.get((image_id, index)) or self._numbers.setdefault(
            (image_id, index), next(self._next_number)
        )
        chunk = ImageChunk(-number, cells, mtmd.mtmd_input_chunk_get_n_pos(handle), mtmd.mtmd_input_chunk_copy(handle))
        weakref.finalize(chunk, mtmd.mtmd_input_chunk_free, chunk.handle).atexit = False
        return chunk

    # -- evaluating -----------------------------------------------------------------------------------------------

    def encode(self, chunk: ImageChunk) -> NDArray[np.float32]:
        """Return the embeddings of a chunk, shape [cells, n_embd]. Raises GenerationFailed."""
        if chunk.first in self._embeddings:
            self._embeddings.move_to_end(chunk.first)
            return self._embeddings[chunk.first]
        status = mtmd.mtmd_encode_chunk(self._context, chunk.handle)
        if status:
            raise GenerationFailed("llama.cpp", f"mtmd_encode_chunk failed with status {status}")
        self._encoded += 1
        shape = (chunk.cells, self._model.n_embd)
        output = mtmd.mtmd_get_output_embd(self._context)
        embeddings: NDArray[np.float32] = np.ctypeslib.as_array(output, shape).copy()
        self._keep(chunk, embeddings)
        return embeddings

    def _keep(self, chunk: ImageChunk, embeddings: NDArray[np.float32]) -> None:
        self._embeddings[chunk.first] = embeddings
        while len(self._embeddings) > 1 and sum(one.nbytes for one in self._embeddings.values()) > KEPT_EMBEDDING_BYTES:
            self._embeddings.popitem(last=False)

    def decode(self, chunk: ImageChunk, embeddings: NDArray[np.float32], position: int, sequence: int) -> int:
        """Put a chunk into the KV cache at `position` of `sequence`. Return what `Model.decode` returns.

        Unless it returns DECODED, some cells of the chunk may be in the KV cache.
        """
        after = mtmd.llama_cpp.llama_pos(0)
        return self._model.evaluate(
            lambda: mtmd.mtmd_helper_decode_image_chunk(
                self._context,
                self._model.context,
                chunk.handle,
                embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                position,
                sequence,
                self._model.n_batch,
                ctypes.byref(after),
                mtmd.mtmd_helper_post_decode_callback(),
                ctypes.c_void_p(0),
            ),
            interruptible=False,
        )


def _text_tokens(handle: Any) -> Iterator[int]:
    count = ctypes.c_size_t(0)
    tokens = mtmd.mtmd_input_chunk_get_tokens_text(handle, ctypes.byref(count))
    return iter(tokens[: count.value])
