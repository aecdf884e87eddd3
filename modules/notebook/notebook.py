"""A text of the notebook: which parts of it a model has written, token by token, and what undo and redo lead to.

Everything here is a value: changes return another one. Positions count characters (code points).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from modules.core.events import Logprob
from modules.core.prompt import Replacement
from modules.notebook.errors import NothingToRedo, NothingToRegenerate, NothingToUndo, PartOfCharacter, TokenChanged

REPLACEMENT_CHARACTER = "\ufffd"
"""What stands for the bytes of a token that are only a part of a character."""


@dataclass(frozen=True)
class Token:
    """A token that a model has written, and the most likely `candidates` for its position, best first.

    `text` has the characters that it completes; of a character of several tokens, the last one has it all. `inner` says
    that the token begins inside a character.
    """

    id: int
    text: str
    logprob: float
    candidates: tuple[Logprob, ...] = ()
    inner: bool = False


@dataclass(frozen=True)
class Passage:
    """Consecutive tokens that a model has written, from the position `start` of the text on.

    The prompt of the first token was the text before it; with `fills`, also the text behind the passage.
    """

    start: int
    tokens: tuple[Token, ...]
    fills: bool = False

    @cached_property
    def end(self) -> int:
        return self.start + sum(len(token.text) for token in self.tokens)

    def until(self, position: int) -> Passage:
        """Return the passage with those tokens only that end at `position` or before."""
        if self.end <= position:
            return self
        kept, at = 0, self.start
        for number, token in enumerate(self.tokens):
            at += len(token.text)
            if at > position:
                break
            if token.text or not self._is_split(number):
                kept = number + 1
        return replace(self, tokens=self.tokens[:kept])

    def _is_split(self, number: int) -> bool:
        """Whether the character that the token begins, or goes on with, is completed by a later one."""
        return number + 1 < len(self.tokens) and self.tokens[number + 1].inner

    def position(self, number: int) -> int:
        """Return where the token of that number begins."""
        return self.start + sum(len(token.text) for token in self.tokens[:number])


@dataclass(frozen=True)
class State:
    """The text at one time. `passages` are in order and apart. `last` is where the last generation begins and ends,
    None if that is not known any more.
    """

    text: str = ""
    passages: tuple[Passage, ...] = ()
    last: tuple[int, int] | None = None

    def typed(self, text: str) -> State:
        """Return the state with another text.

        The probabilities of tokens after the first difference were those after another text: they are dropped.
        """
        if text == self.text:
            return self
        change = Replacement.between(self.text, text)
        kept = tuple(_until(self.passages, change.start, fills=False))
        return State(text, kept, self._moved(change))

    def _moved(self, change: Replacement) -> tuple[int, int] | None:
        if self.last is None:
            return None
        start, end = self.last
        shift = len(change.text) - (change.end - change.start)
        if change.start >= end:
            return self.last
        if change.end <= start:
            return start + shift, end + shift
        return (start, end + shift) if start <= change.start and change.end <= end else None


def _until(passages: Sequence[Passage], position: int, fills: bool) -> Iterator[Passage]:
    for passage in passages:
        kept = passage.until(position)
        if kept.tokens and (fills or not passage.fills):
            yield kept


@dataclass(frozen=True)
class Step:
    """A state as the difference from another one."""

    change: Replacement
    passages: tuple[Passage, ...] = ()
    last: tuple[int, int] | None = None

    @staticmethod
    def between(old: State, new: State) -> Step:
        return Step(Replacement.between(old.text, new.text), new.passages, new.last)

    def apply(self, old: State) -> State:
        return State(self.change.apply(old.text), self.passages, self.last)


@dataclass(frozen=True)
class Notebook:
    """A text and its history. The last of `undo`, and of `redo`, lead from `state` to the state that was, or will be;
    each one before it leads on from there.

    `rev` changes with the text. `forgotten` says that the text was changed by another program, so that its history was
    dropped.
    """

    name: str
    state: State = State()
    undo: tuple[Step, ...] = ()
    redo: tuple[Step, ...] = ()
    rev: str = ""
    forgotten: bool = False

    @property
    def text(self) -> str:
        return self.state.text

    def typed(self, text: str) -> Notebook:
        """Return the notebook with a text that the user has edited. Undo and redo lead to the same texts as before."""
        state = self.state.typed(text)
        return replace(self, state=state, undo=self._rebased(self.undo, state), redo=self._rebased(self.redo, state))

    def _rebased(self, steps: tuple[Step, ...], state: State) -> tuple[Step, ...]:
        return (*steps[:-1], Step.between(state, steps[-1].apply(self.state))) if steps else ()

    def changed(self, state: State) -> Notebook:
        """Return the notebook in another state, which can be undone."""
        return replace(self, state=state, undo=(*self.undo, Step.between(state, self.state)), redo=())

    def undone(self) -> Notebook:
        """Return the notebook as it was before the last generation. Raises NothingToUndo."""
        if not self.undo:
            raise NothingToUndo()
        state = self.undo[-1].apply(self.state)
        return replace(self, state=state, undo=self.undo[:-1], redo=(*self.redo, Step.between(state, self.state)))

    def redone(self) -> Notebook:
        """Return the notebook as it was before the last undo. Raises NothingToRedo."""
        if not self.redo:
            raise NothingToRedo()
        state = self.redo[-1].apply(self.state)
        return replace(self, state=state, undo=(*self.undo, Step.between(state, self.state)), redo=self.redo[:-1])


# -- where a generation begins ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beginning:
    """A text that a model is to go on with after `before`; `after` stays behind what it writes.

    The model gets `passage.tokens` as they were; they are the end of `before`. `others` are earlier passages. With
    `passage.fills`, the model also gets `after`.
    """

    before: str
    after: str
    passage: Passage
    others: tuple[Passage, ...] = field(default=())

    def state(self, written: str, tokens: tuple[Token, ...] | None) -> State:
        """Return the text with what the model has written; `tokens` is None where they are not known."""
        passages = self.others
        known = (*self.passage.tokens, *tokens) if tokens is not None else self.passage.tokens
        if known:
            passages = (*passages, replace(self.passage, tokens=known))
        at = len(self.before)
        return State(self.before + written + self.after, passages, (at, at + len(written)))


def continued(state: State, at: int, end: int | None = None, fills: bool = False) -> Beginning:
    """Return how to go on at the position `at`, instead of the text between `at` and `end`."""
    end = at if end is None else end
    before, after = state.text[:at], state.text[end:]
    fills = fills and bool(after)
    kept = list(_until(state.passages, at, fills=True))
    whole_end = next((one.end for one in state.passages if kept and one.start == kept[-1].start), at)
    joins = bool(kept) and kept[-1].end == at and kept[-1].fills == fills and (not fills or whole_end == end)
    passage = kept.pop() if joins else Passage(at, (), fills)
    return Beginning(before, after, passage, tuple(one for one in kept if not one.fills))


def regenerated(state: State, fills: bool = False) -> Beginning:
    """Return how to write the last generation anew. Raises NothingToRegenerate."""
    if state.last is None:
        raise NothingToRegenerate()
    return continued(state, *state.last, fills=fills)


def picked(state: State, position: int, number: int, candidate: int) -> Beginning:
    """Return how to go on with another token: the one with the id `candidate`, in place of a token of the passage that
    starts at `position`. What the model had written from there on is cut off.

    Raises TokenChanged or PartOfCharacter.
    """
    passage = next((one for one in state.passages if one.start == position), None)
    if passage is None or not 0 <= number < len(passage.tokens):
        raise TokenChanged()
    token = passage.tokens[number]
    chosen = Logprob(token.text, token.logprob, token.id)
    choice = next((one for one in (*token.candidates, chosen) if one.id == candidate), None)
    if choice is None:
        raise TokenChanged()
    if token.inner or REPLACEMENT_CHARACTER in choice.text or not choice.text:
        raise PartOfCharacter()
    tokens = (*passage.tokens[:number], Token(choice.id, choice.text, choice.logprob, token.candidates))
    before = state.text[: passage.position(number)] + choice.text
    others = tuple(one for one in state.passages if one.end <= passage.start and not one.fills)
    return Beginning(before, state.text[passage.end :], replace(passage, tokens=tokens), others)
