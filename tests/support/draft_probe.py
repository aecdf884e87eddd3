"""A script that answers prompts with draft tokens wherever there are any, as if further tokens of a batch cost nothing.

So which drafts are evaluated does not depend on the speed of the machine. It reads {"path", "options", "groups"} from
stdin, where a group is a list of [prompt, settings] that are answered together, and writes the list of their
`DraftedAnswer`s as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.paths import ROOT

Question = tuple[str, dict[str, Any]]
TIMEOUT_SECONDS = 100


@dataclass(frozen=True)
class DraftedAnswer:
    """An answer with the ids of its tokens, if its settings ask for `top_logprobs`; `error` is "" if it succeeded.

    `cells` are those of the slot with the most of them, after all answers of the group.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    reason: str = ""
    completion_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    error: str = ""
    prompt_tokens: int = field(default=0, compare=False)
    cells: int = field(default=0, compare=False)


def drafted_answers(
    path: Path, options: dict[str, object], groups: Sequence[Sequence[Question]]
) -> list[list[DraftedAnswer]]:
    """Run the script with these groups of questions. Fail if a slot's record differs from llama.cpp's afterwards."""
    request = json.dumps({"path": str(path), "options": options, "groups": groups})
    command = [sys.executable, "-m", "tests.support.draft_probe"]
    child = subprocess.run(command, cwd=ROOT, input=request, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert child.returncode == 0, child.stderr[-2000:]
    return [
        [DraftedAnswer(**{**answer, "tokens": tuple(answer["tokens"])}) for answer in group]
        for group in json.loads(child.stdout)
    ]


def main() -> None:
    from modules.engines.llamacpp.engine import LlamaCpp
    from modules.loaders.load_settings import option_values, resolve
    from modules.loaders.registry import LOADERS

    request = json.load(sys.stdin)
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=request["options"]))
    engine = LlamaCpp(Path(request["path"]), options, lambda progress: None)
    drafts: Any = engine.__dict__["_drafts"]
    drafts.costs = FreeTokens(1.0)
    if drafts._model is not None:
        drafts._model.costs = FreeTokens(0.0)
    answers = []
    for group in request["groups"]:
        answers.append([dataclasses.asdict(answer) for answer in _together(engine, group)])
        for slot in engine.operations["cache"]()["slots"]:
            assert list(slot["span"]) == ([0, slot["positions"] - 1] if slot["cells"] else [-1, -1]), slot
    _check_threads(engine, drafts)
    print(json.dumps(answers))


def _check_threads(engine: Any, drafts: Any) -> None:
    """Fail if the draft model does not compute with as many threads as the large one is given."""
    import llama_cpp.llama_cpp as native

    bind = engine.operations["bind_threads"]
    bind.__self__._calls = {"llama_init_from_model": {"n_threads": 6, "n_threads_batch": 8}}
    bind(cores=[[], []], workers=2)
    contexts = [engine.model.context] + ([drafts._model.context] if drafts._model is not None else [])
    for context in contexts:
        counts = native.llama_n_threads(context), native.llama_n_threads_batch(context)
        assert counts == (2, 2), counts


class FreeTokens:
    """Batches that all take the same time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def record(self, size: int, seconds: float) -> None:
        pass

    def seconds(self, size: int) -> float:
        return self._seconds

    def is_known(self, size: int) -> bool:
        return True


def _together(engine: Any, questions: Sequence[Question]) -> list[DraftedAnswer]:
    from modules.core.events import Done, Failed, Text
    from tests.support.answers import parameters

    for call, (prompt, settings) in enumerate(questions):
        params = parameters(**settings)
        engine.submit(call, engine.tokenize(prompt, params), params)
    texts = [""] * len(questions)
    tokens: list[list[int]] = [[] for _ in questions]
    ends: dict[int, Done | Failed] = {}
    while not engine.idle:
        for call, event in engine.step():
            if isinstance(event, Text):
                texts[call] += event.text
                tokens[call] += [token.chosen.id for token in event.logprobs]
            elif isinstance(event, Done | Failed):
                ends[call] = event
    cells = max(slot["cells"] for slot in engine.operations["cache"]()["slots"])
    return [_answer(text, ids, ends[call], cells) for call, (text, ids) in enumerate(zip(texts, tokens, strict=True))]


def _answer(text: str, tokens: Sequence[int], end: Any, cells: int) -> DraftedAnswer:
    if hasattr(end, "error"):
        return DraftedAnswer(text, error=str(end.error))
    return DraftedAnswer(
        text,
        tuple(tokens),
        end.reason,
        end.completion_tokens,
        end.drafted_tokens,
        end.accepted_tokens,
        prompt_tokens=end.prompt_tokens,
        cells=cells,
    )


if __name__ == "__main__":
    main()
