"""The file that remembers the generations of a text: `.history/<name>.json`.

It belongs to the text whose hash it has. While a model is writing, it has the hash of what surrounds the new text, so
that undo is still there if the program is killed meanwhile. If the text is any other one, the file counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modules.core.events import Json, Logprob
from modules.core.prompt import Replacement
from modules.notebook.notebook import Notebook, Passage, State, Step, Token

FORMAT, VERSION = "text-studio/notebook", 1
MAX_TOKENS = 6000
"""Tokens that are kept with their candidates: about 2 MB. Beyond them, the oldest texts lose their probabilities."""
MAX_STEPS = 100
"""Of undo, and of redo."""
MAX_CHARACTERS = 2_000_000
"""Of the texts of all steps together."""
MAX_BYTES = 16_000_000


def trimmed(notebook: Notebook) -> Notebook:
    """Return the notebook without the oldest steps, and without the oldest tokens, that exceed the bounds."""
    known: set[int] = set()
    state = replace(notebook.state, passages=_affordable(notebook.state.passages, known))
    redo, space = _recent(notebook.redo, known, MAX_CHARACTERS)
    undo, _ = _recent(notebook.undo, known, space)
    return replace(notebook, state=state, undo=undo, redo=redo)


def _recent(steps: Sequence[Step], known: set[int], space: int) -> tuple[tuple[Step, ...], int]:
    """Return the last of the steps whose texts have no more than `space` characters, and what is left of that."""
    recent: list[Step] = []
    for step in reversed(steps[-MAX_STEPS:]):
        if len(step.change.text) > space:
            break
        space -= len(step.change.text)
        recent.append(replace(step, passages=_affordable(step.passages, known)))
    return tuple(reversed(recent)), space


def _affordable(passages: Sequence[Passage], known: set[int]) -> tuple[Passage, ...]:
    """Return the passages, the last ones first, as long as no more than MAX_TOKENS are `known` by their `id()`."""
    kept: list[Passage] = []
    for passage in reversed(passages):
        tokens = set(map(id, passage.tokens))
        if len(known | tokens) > MAX_TOKENS:
            break
        known |= tokens
        kept.append(passage)
    return tuple(reversed(kept))


def to_bytes(notebook: Notebook, writing: tuple[int, int] | None = None) -> bytes:
    """Return the content of the file. While a model writes, `writing` is the length of the text before and after it."""
    pool = _Pool()
    body = {
        "format": FORMAT,
        "version": VERSION,
        "match": _fingerprint(notebook.text, *writing) if writing else _fingerprint(notebook.text),
        "passages": [pool.add(passage) for passage in notebook.state.passages],
        "last": notebook.state.last,
        "undo": [_step_json(step, pool) for step in notebook.undo],
        "redo": [_step_json(step, pool) for step in notebook.redo],
        "tokens": pool.tokens,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def from_bytes(name: str, text: str, content: bytes) -> Notebook | None:
    """Return the notebook that a file describes; None if the file is damaged, or of another text."""
    if len(content) > MAX_BYTES:
        return None
    try:
        body = json.loads(content)
        if body["format"] != FORMAT or body["version"] != VERSION:
            return None
        match = body["match"]
        is_open = "before" in match
        if match != (_fingerprint(text, match["before"], match["after"]) if is_open else _fingerprint(text)):
            return None
        tokens = [_token(*entry) for entry in body["tokens"]]
        stored = text[: match["before"]] + text[len(text) - match["after"] :] if is_open else text
        state = State(stored, _passages(body["passages"], tokens), _pair(body["last"]))
        notebook = Notebook(name, state, _steps(body["undo"], tokens), _steps(body["redo"], tokens))
        if is_open:
            notebook = notebook.typed(text)  # what the model wrote before the program was killed
            last = (match["before"], len(text) - match["after"])
            notebook = replace(notebook, state=replace(notebook.state, last=last))
        return notebook
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _fingerprint(text: str, before: int | None = None, after: int = 0) -> dict[str, Json]:
    if before is None:
        return {"sha256": _hash(text)}
    if before + after > len(text):
        raise ValueError("the text is shorter than what surrounded the new text")
    frame = _hash(text[:before]) + _hash(text[len(text) - after :])
    return {"before": before, "after": after, "sha256": _hash(frame)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Pool:
    """The tokens of all states, each of them once."""

    def __init__(self) -> None:
        self.tokens: list[Json] = []
        self._numbers: dict[int, int] = {}

    def add(self, passage: Passage) -> Json:
        return [passage.start, passage.fills, [self._number(token) for token in passage.tokens]]

    def _number(self, token: Token) -> int:
        if id(token) not in self._numbers:
            self._numbers[id(token)] = len(self.tokens)
            candidates = [[one.id, one.text, one.logprob] for one in token.candidates]
            self.tokens.append([token.id, token.text, token.logprob, candidates, int(token.inner)])
        return self._numbers[id(token)]


def _step_json(step: Step, pool: _Pool) -> Json:
    change = step.change
    return [change.start, change.end, change.text, [pool.add(passage) for passage in step.passages], step.last]


def _token(id: int, text: str, logprob: float, candidates: Json, inner: int) -> Token:
    top = tuple(Logprob(str(text), float(logprob), int(id)) for id, text, logprob in candidates)
    return Token(int(id), str(text), float(logprob), top, bool(inner))


def _passages(body: Json, tokens: Sequence[Token]) -> tuple[Passage, ...]:
    return tuple(
        Passage(int(start), tuple(tokens[number] for number in numbers), bool(fills)) for start, fills, numbers in body
    )


def _pair(body: Json) -> tuple[int, int] | None:
    if body is None:
        return None
    start, end = body
    return int(start), int(end)


def _steps(body: Json, tokens: Sequence[Token]) -> tuple[Step, ...]:
    return tuple(_read_steps(body, tokens))


def _read_steps(body: Json, tokens: Sequence[Token]) -> Iterator[Step]:
    for start, end, text, passages, last in body:
        yield Step(Replacement(int(start), int(end), str(text)), _passages(passages, tokens), _pair(last))
