"""How much of the context pictures take, for those who only want to know: each is sent to a model once for that."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from modules.core.image_marks import mark, split_at_marks
from modules.core.prompt import Image, Prompt
from modules.core.recent import Recent
from modules.runtime.loaded_model import LoadedModel

_MAX_KEPT = 1000


class ImageTokens:
    """Counts tokens of texts with pictures. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Recent[tuple[int, str], int] = Recent(_MAX_KEPT)  # by the process and the picture

    def count(self, model: LoadedModel, text: str, images: Sequence[Image], image_text: str) -> int:
        """Return how many tokens `text` has, which marks these pictures. Asks the worker.

        `image_text` is that of a `Prompt`.
        """
        pieces = split_at_marks(text)
        words = "".join(piece for piece in pieces if isinstance(piece, str))
        marked = (images[piece] for piece in pieces if isinstance(piece, int))
        return int(model.ask("count", text=words)) + sum(self._count_one(model, image, image_text) for image in marked)

    def _count_one(self, model: LoadedModel, image: Image, image_text: str) -> int:
        key = (model.pid, image.id)
        with self._lock:
            known = self._counts.get(key)
        if known is None:
            prompt = Prompt(mark(0), 0, images=(image,), image_text=image_text).to_json()
            whole = int(model.ask("measure", prompt=prompt, params={}))
            known = max(whole - int(model.ask("count", text="")), 0)  # without the tokens that begin each prompt
            with self._lock:
                self._counts[key] = known
        return known
