"""The engine of a machine that only computes for another one, which has the model's page and API."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NoReturn

from modules.core.errors import Unsupported
from modules.core.events import Done, Info, Json, Progress, Text
from modules.engines.engine_protocol import Operations


class HeadlessEngine:
    """Refuses every question: this machine has no server. `head` is the address of the machine that has it."""

    def __init__(self, info: Info, head: str) -> None:
        self.info, self._head = info, head
        self.operations: Operations = {}
        self.questions: Operations = dict.fromkeys(("encode", "decode", "count", "pieces"), self._refuse)

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        self._refuse()

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        self._refuse()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported(
            {
                "en": f"This machine only computes for {self._head}. Use the page or the API there.",
                "zh": f"本机只为 {self._head} 计算，请使用那台机器的页面或 API。",
            }
        )
