"""Pictures in the prompts of a transformers model: its processor makes of them, and of the text, what the model takes.

Nothing of a processor is imitated. Its template texts for pictures stand where the prompt has marks, it expands them to
as many tokens as the model wants, and all that it returns is passed to the model.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image as Picture
from torch import Tensor

from modules.core.image_marks import split_at_marks
from modules.core.prompt import Image
from modules.core.worker_errors import ImageRejected, TooManyPixels
from modules.engines.hf.model import Model
from modules.engines.pictures import decode_picture

MAX_PROMPT_PIXELS = 100_000_000
"""Pixels of all the pictures of a prompt, which are decoded together: 300 MB."""
_WORD_JOINER = "\u2060"
"""Invisible. It is put into texts of users that would be read as the place of a picture."""


class Vision:
    """The processor of a model, and the token that stands for a piece of a picture. Any thread may call."""

    def __init__(self, processor: Any, model: Model) -> None:
        self._processor, self._model = processor, model
        self.token = _image_token(model.module.config)
        own_texts = (*processor.all_special_multimodal_tokens, model.shown_text(self.token))
        self._own_texts = tuple(dict.fromkeys(text for text in own_texts if len(text) > 1))
        self._default_text = self._around(processor.image_token)
        self._lock = threading.Lock()

    def _around(self, text: str) -> str:
        """Return `text` between the tokens for the beginning and the end of a picture, where the model has such."""
        config = self._model.module.config
        begin, end = (getattr(config, f"vision_{side}_token_id", None) for side in ("start", "end"))
        if begin is None or end is None:
            return text
        return f"{self._model.shown_text(begin)}{text}{self._model.shown_text(end)}"

    def read(self, images: Sequence[Image], text: str) -> PromptImages:
        """Return the pictures of a prompt. See `ImageReader`. Raises ImageUnreadable or TooManyPixels."""
        one_place = text.count(self._processor.image_token) == 1
        return PromptImages(self, images, text if one_place else self._default_text)

    def escaped(self, text: str) -> str:
        """Return `text` without anything that the processor or the model would take for a picture."""
        for own in self._own_texts:
            text = text.replace(own, own[0] + _WORD_JOINER + own[1:])
        return text

    def process(self, text: str, pictures: Sequence[Picture.Image], special: bool) -> tuple[list[int], dict[str, Any]]:
        """Return the tokens of a text with its pictures, and the model's input. Raises ImageRejected."""
        bos = self._model.tokenizer.bos_token
        special = special and not (bos and text.startswith(bos))
        try:
            with self._lock:
                batch = self._processor(
                    images=list(pictures), text=[text], add_special_tokens=special, return_tensors="pt"
                )
        except ValueError as error:
            raise ImageRejected(str(error)) from error
        inputs = {name: value for name, value in batch.items() if name in self._model.input_names}
        tokens: list[int] = batch["input_ids"][0].tolist()
        return tokens, inputs

    def encode(self, text: str, special: bool) -> list[int]:
        return self._model.encode(text, special)


class PromptImages:
    """The pictures of one prompt, decoded, and what its texts become with them.

    A prompt is tokenized once for each of its shorter forms. The input of the model is kept for the last one alone, as
    it takes megabytes; for another one it is computed again.
    """

    def __init__(self, vision: Vision, images: Sequence[Image], text: str) -> None:
        self._vision, self._text = vision, text
        self._ids = [image.id for image in images]
        self._pictures: list[Picture.Image | None] = []
        pixels = 0
        for image in images:
            picture = decode_picture(image.data) if image.data else None
            pixels += picture.width * picture.height if picture is not None else 0
            if pixels > MAX_PROMPT_PIXELS:
                raise TooManyPixels(MAX_PROMPT_PIXELS // 10**6)
            self._pictures.append(picture)
        self._sources: dict[tuple[int, ...], tuple[str, bool]] = {}
        self._latest: tuple[list[int], dict[str, Any]] = ([], {})

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Return the tokens of a text with marks. Raises ImageRejected."""
        self._latest = self._process(text, special)
        tokens = self._latest[0]
        self._sources[tuple(tokens)] = (text, special)
        return tokens

    def is_used(self, tokens: Sequence[int]) -> bool:
        """Tell whether a picture is among these `tokens`, which `tokenize` has returned."""
        return self._vision.token in tokens

    def inputs(self, tokens: Sequence[int]) -> Mapping[str, Tensor]:
        """Return the input of the model for `tokens`, which `tokenize` has returned. Raises ImageRejected."""
        if self._latest[0] != list(tokens):
            self._latest = self._process(*self._sources[tuple(tokens)])
        return self._latest[1]

    def drop_inputs(self) -> None:
        """Free the input of the model, which `inputs` computes again."""
        self._latest = ([], {})

    def cache_keys(self, tokens: Sequence[int]) -> list[int]:
        """Return `tokens` with a number in place of each piece of a picture, which says what all the pictures are.

        So two prompts have a beginning in common only if all their pictures are the same, in the same order.
        """
        numbers = [piece for piece in split_at_marks(self._sources[tuple(tokens)][0]) if isinstance(piece, int)]
        digest = hashlib.sha256("".join(self._ids[number] for number in numbers).encode()).digest()
        number = -1 - int.from_bytes(digest[:7], "big")
        return [number if token == self._vision.token else token for token in tokens]

    def end(self, tokens: Sequence[int]) -> int:
        """Return the index after the last piece of a picture."""
        return len(tokens) - list(reversed(tokens)).index(self._vision.token)

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return `tokens` without the pieces of pictures."""
        return [token for token in tokens if token != self._vision.token]

    def _process(self, text: str, special: bool) -> tuple[list[int], dict[str, Any]]:
        pieces = split_at_marks(text)
        pictures = [picture for piece in pieces if isinstance(piece, int) if (picture := self._pictures[piece])]
        if not pictures:
            words = "".join(piece for piece in pieces if isinstance(piece, str))
            return self._vision.encode(words, special), {}
        parts = (
            self._vision.escaped(piece) if isinstance(piece, str) else self._text if self._pictures[piece] else ""
            for piece in pieces
        )
        return self._vision.process("".join(parts), pictures, special)


def _image_token(config: Any) -> int:
    """Return the id of the token in whose place the model puts a piece of a picture."""
    found = getattr(config, "image_token_id", None)
    return int(config.image_token_index if found is None else found)
