"""The transformers engine for a model that reads pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from modules.core.errors import OptionError
from modules.core.events import Event, Json, Note
from modules.core.prompt import Image
from modules.core.worker_errors import PromptTooLong
from modules.engines.hf.engine import Engine
from modules.engines.hf.generation import Generation
from modules.engines.hf.image_requests import ImageRequests
from modules.engines.hf.model import Model
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.hf.vision import PromptImages, Vision

_NO_GUIDANCE = {"en": "1, as the prompt has images", "zh": "1（提示词含图片）"}


class VisionEngine(Engine):
    """An `Engine` that runs generations about pictures one after the other, beside the batch of the others."""

    def __init__(
        self, model: Model, vocabulary: Vocabulary, context: int, notes: Iterable[Note], vision: Vision
    ) -> None:
        super().__init__(model, vocabulary, context, notes)
        self._vision = vision
        self._image_requests = ImageRequests(model, self.emit_token, self._prefixes.free_memory)
        self.info = dataclasses.replace(self.info, images=True)

    def read_images(self, images: Sequence[Image], text: str) -> PromptImages:
        """See `ImageReader`."""
        return self._vision.read(images, text)

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        images: PromptImages | None = params.get("images")
        if images is None:
            return super().tokenize(text, params)
        return images.tokenize(text, bool(params.get("add_bos_token", True)))

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        images: PromptImages | None = params.get("images")
        params = {name: value for name, value in params.items() if name != "images"}
        if images is None or not images.is_used(prompt):  # a shortened prompt may do without
            super().submit(call, prompt, params)
            return
        if len(prompt) >= self._context:
            raise PromptTooLong(len(prompt), self._context - 1)
        if params["guidance_scale"] != 1:
            raise OptionError("guidance_scale", params["guidance_scale"], _NO_GUIDANCE)
        generation = Generation(
            call, prompt, None, params, self.model, self._vocabulary, self._context, images.text_tokens
        )
        self._image_requests.add(generation, images)

    def forget(self) -> None:
        if self.idle:
            self._image_requests.forget()
        super().forget()

    def cancel(self, call: int) -> None:
        super().cancel(call)
        self._image_requests.cancel(call)

    @property
    def idle(self) -> bool:
        return super().idle and self._image_requests.idle

    def step(self) -> Iterator[tuple[int, Event]]:
        """Take one step of the batch, and one of the generation about pictures."""
        yield from super().step()
        yield from self._image_requests.step()
