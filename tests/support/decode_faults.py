"""A script: answers and scores of the llama.cpp engine whose batches are refused or interrupted at planned steps.

`python -m tests.support.decode_faults MODEL` writes them by name as JSON: texts, log-likelihoods, or words of errors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.core.events import Failed, Json, Text
from modules.core.worker_errors import GenerationFailed
from modules.engines.llamacpp.bindings import ABORTED, CACHE_FULL
from modules.engines.llamacpp.engine import LlamaCpp
from modules.engines.loglikelihoods import Loglikelihoods
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.answers import parameters
from tests.support.draft_probe import FreeTokens

FIRST, SECOND = "Once upon a time, in a village by the sea,", "The recipe for bread begins with"
REPEATED = "One two three four. " * 6
_STATUS = {"refused": -3, "full": CACHE_FULL, "interrupted": ABORTED}


class Faults:
    """Decides on the next batches: "" is evaluated, "late" as well, but said to have been interrupted.

    The others are a status of `llama_decode` that has evaluated nothing.
    """

    def __init__(self, model: Any) -> None:
        self._decode, model.decode = model.decode, self.decode
        self.planned: list[str] = []

    def decode(self, batch: Any, interruptible: bool = True) -> int:
        fault = self.planned.pop(0) if self.planned else ""
        if fault in _STATUS:
            return _STATUS[fault]
        status = int(self._decode(batch, interruptible))
        return ABORTED if fault == "late" else status


class Probe:
    def __init__(self, path: Path, **more: object) -> None:
        form = {"n_ctx": 512, "parallel": 4, "threads": 1, "threads_batch": 1, **more}
        options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=form))
        self.engine: Any = LlamaCpp(path, options, lambda progress: None)
        self.engine.__dict__["_drafts"].costs = FreeTokens(1.0)
        self.faults = Faults(self.engine.model)

    def answers(self, prompts: Sequence[str], *faults: str, **settings: Any) -> list[str]:
        """Return the texts or errors of prompts that are answered together."""
        self.engine.forget()
        self.faults.planned = list(faults)
        texts = [""] * len(prompts)
        self._submit(prompts, **settings)
        while not self.engine.idle:
            self._step(texts)
        return texts

    def _submit(self, prompts: Sequence[str], **settings: Any) -> None:
        params = parameters(**{"max_new_tokens": 12, "ban_eos_token": True, "temperature": 0, **settings})
        for call, prompt in enumerate(prompts):
            self.engine.submit(call, self.engine.tokenize(prompt, params), params)

    def _step(self, texts: list[str]) -> None:
        for call, event in self.engine.step():
            if isinstance(event, Text):
                texts[call] += event.text
            elif isinstance(event, Failed):
                texts[call] = str(event.error)

    def shifted(self, copies: int = 1, cancelled: bool = False) -> list[str]:
        """Return the answers to `copies` of a prompt, asked together, of which more was evaluated before.

        If `cancelled`, it has been asked before, and cancelled when a slot was shifted for it; then came another one.
        """
        self.answers([FIRST + SECOND * 3 + REPEATED * 4])
        prompt, texts = FIRST + REPEATED * 4, [""] * copies
        if cancelled:
            self._submit([prompt])
            self.engine.__dict__["_scheduler"].admit()
            self.engine.cancel(0)
            self._submit([SECOND])
            while not self.engine.idle:
                self._step([""])
        self._submit([prompt] * copies)
        while not self.engine.idle:
            self._step(texts)
        return texts

    def scores(self, *faults: str, beside: str = "") -> Json:
        """Return the log-likelihoods of a text or an error, with the text of an answer `beside` that begins first."""
        self.engine.forget()
        texts = [""]
        if beside:
            self._submit([beside])
            self._step(texts)
        self.faults.planned = list(faults)
        tokens = self.engine.questions["encode"](FIRST * 8)
        evaluation = self.engine.operations["loglikelihoods"](tokens, 4)
        while True:
            try:
                next(evaluation)
            except StopIteration as end:
                found: Json = list(Loglikelihoods.from_json(end.value).logprobs)
                break
            except GenerationFailed as error:
                found = str(error)
                break
            if not self.engine.idle:
                self._step(texts)
        while not self.engine.idle:
            self._step(texts)
        return [found, *texts] if beside else found


def main() -> None:
    probe = Probe(Path(sys.argv[1]))
    one, both = [FIRST], [FIRST, SECOND]
    repeating = {"grammar_string": f"root ::= {json.dumps(REPEATED)}"}
    drafting = {**repeating, "prompt_lookup_num_tokens": 4}
    facts: dict[str, Json] = {
        "one": probe.answers(one),
        "interrupted": probe.answers(one, "interrupted", "", "", "interrupted", "interrupted"),
        "late": probe.answers(one, "late", "", "late", "late", "", "late"),
        "both": probe.answers(both),
        "both, late": probe.answers(both, "", "late", "interrupted", "late"),
        "repeated": probe.answers([REPEATED], **repeating),
        "drafts": probe.answers([REPEATED], **drafting),
        "drafts, late": probe.answers([REPEATED], "", "late", "", "late", "late", **drafting),
        "refused": probe.answers(both, "", "", "refused"),
        "after a refusal": probe.answers(both),
        "full": probe.answers(one, "", "", "full"),
        "full, and another runs": probe.answers(both, "", "", "full"),
        "scores": probe.scores(),
        "scores, interrupted": probe.scores("interrupted", "late"),
        "scores, refused": probe.scores("refused"),
        "scores, full": probe.scores("full"),
        "scores, beside": probe.scores(beside=SECOND),
        "scores, full beside": probe.scores("full", beside=SECOND),
        "scores, full for the answer": probe.scores("", "full", beside=SECOND),
    }
    slots = probe.engine.operations["cache"]()["slots"]
    facts["agrees"] = [slot["span"][1] + 1 == slot["positions"] for slot in slots]
    for unified in ("on", "off"):
        sliding = Probe(Path(sys.argv[1]), streaming_llm=True, kv_unified=unified)
        facts[f"shifted, {unified}"] = [sliding.shifted(), sliding.shifted(copies=2), sliding.shifted(cancelled=True)]
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
