"""LoRAs of servers: those that they offer, and with vLLM those that it loads when it is asked to.

The effect of a LoRA is measured as that of our own engines is, on a probe text, by the few log-probabilities that a
server tells: how much the likelihood of a next token changes most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.engines.served.server_kind import Ask, ServerFacts, ServerLora

PROBE = "The secret of a good answer is that somebody asked:\n1. What is your name? 2. 你最喜欢什么颜色？"
TOP = 5
"""Candidates that are compared: servers allow no fewer."""

_ONE = {
    "en": "This server applies one LoRA at a time, with weight 1.",
    "zh": "此服务器一次只能应用一个 LoRA，权重为 1。",
}


def offered(loras: Sequence[ServerLora], name: str, path: str) -> ServerLora | None:
    """Return the LoRA of the server that is called `name`, or as the file or folder at `path` is; None without one."""
    names = {name, PurePath(path).name, PurePath(path).stem} - {""}
    return next((lora for lora in loras if {lora.name, PurePath(lora.name).stem} & names), None)


def not_offered(name: str, loras: Sequence[ServerLora]) -> LoraRefused:
    """Return the refusal of a LoRA that the server has not."""
    known = ", ".join(lora.name for lora in loras) or "none"
    return LoraRefused(name, f"the server does not offer it; it was started with these: {known}")


def largest_change(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the largest change of a log-probability, by tokens; one that left the few listed ones counts the least."""
    floor = min((*before.values(), *after.values()), default=0.0)
    return max((abs(before.get(token, floor) - after.get(token, floor)) for token in {*before, *after}), default=0.0)


class OneLora:
    """One LoRA at a time, which requests name as their model, or beside it: vLLM, SGLang.

    `probe` returns the log-probabilities of the tokens after PROBE, by their texts, for a name of a LoRA or "".
    """

    def __init__(self, ask: Ask, facts: ServerFacts, probe: Callable[[str], Mapping[str, float]]) -> None:
        self._ask, self._probe = ask, probe
        self._loras = list(facts.loras)
        self.name = ""

    def apply(self, adapters: Sequence[Mapping[str, Json]]) -> list[float]:
        """Use this LoRA from now on, or none; return its effect as a list.

        Raises Unsupported for several or another weight than 1, LoraRefused, LoraWithoutEffect, and those of `Ask`; the
        former one is then still used.
        """
        active = [adapter for adapter in adapters if adapter["weight"]]
        if not active:
            self.name = ""
            return [0.0] * len(adapters)
        if len(adapters) > 1 or active[0]["weight"] != 1:
            raise Unsupported(_ONE)
        name, path = str(active[0]["name"]), str(active[0]["path"])
        lora = offered(self._loras, name, path) or self._loaded(name, path)
        effect = largest_change(self._probe(""), self._probe(lora.name))
        if not effect:
            raise LoraWithoutEffect(name)
        self.name = lora.name
        return [effect]

    def _loaded(self, name: str, path: str) -> ServerLora:
        """Ask the server to load a LoRA. It must see the same files; most servers do not allow it."""
        if not path:
            raise not_offered(name, self._loras)
        answer = self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if answer.status == 404 and not self._says_why(answer.body):
            raise not_offered(name, self._loras)
        if not answer.is_ok:
            raise LoraRefused(name, str(answer.error or answer.status))
        lora = ServerLora(name)
        self._loras.append(lora)
        return lora

    @staticmethod
    def _says_why(body: Json) -> bool:
        """Tell whether a 404 is about the files of the LoRA, not about the address: vLLM then has an error object."""
        return isinstance(body, dict) and "error" in body
