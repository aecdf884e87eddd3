"""Build the output items of a response, and the events that announce them, from the pieces of a reply."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from modules.api.chat_responses import call_id
from modules.api.openai_responses.custom_input import CustomInput
from modules.api.openai_responses.tools import OfferedTool
from modules.core.events import Json
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece

Event = dict[str, Json]
"""The fields of an event, its type among them, without `sequence_number`."""


class _Item(ABC):
    """One output item. Subclasses fill `item` while its text arrives."""

    def __init__(self, index: int, item: dict[str, Json]) -> None:
        self.item = item
        self.index = index
        self.where = {"item_id": item["id"], "output_index": index}

    def open(self) -> list[Event]:
        return [{"type": "response.output_item.added", "output_index": self.index, "item": _copied(self.item)}]

    @abstractmethod
    def add(self, text: str, logprobs: Sequence[Json] = ()) -> list[Event]:
        """Take more of its text, and return the events about that."""

    def close(self, status: str) -> list[Event]:
        self.item["status"] = status
        events = self.last()  # which stores the text in the item
        done = {"type": "response.output_item.done", "output_index": self.index, "item": _copied(self.item)}
        return [*events, done]

    @abstractmethod
    def last(self) -> list[Event]:
        """Return the events that complete the text of the item, and store it in `item`."""

    def _event(self, kind: str, **fields: Json) -> Event:
        return {"type": kind, **self.where, **fields}


class _ReasoningItem(_Item):
    """The thought, as the text of a summary: clients show that one, and send it back."""

    def __init__(self, index: int) -> None:
        super().__init__(index, {"id": _new_id("rs"), "type": "reasoning", "summary": [], "status": "in_progress"})
        self._texts: list[str] = []

    def open(self) -> list[Event]:
        return [*super().open(), self._part("added", "")]

    def add(self, text: str, logprobs: Sequence[Json] = ()) -> list[Event]:
        self._texts.append(text)
        return [self._event("response.reasoning_summary_text.delta", summary_index=0, delta=text)]

    def last(self) -> list[Event]:
        text = "".join(self._texts)
        self.item["summary"] = [_summary(text)]
        done = self._event("response.reasoning_summary_text.done", summary_index=0, text=text)
        return [done, self._part("done", text)]

    def _part(self, what: str, text: str) -> Event:
        return self._event(f"response.reasoning_summary_part.{what}", summary_index=0, part=_summary(text))


class _MessageItem(_Item):
    """The text of the answer."""

    def __init__(self, index: int) -> None:
        fields = {"type": "message", "role": "assistant", "content": [], "status": "in_progress"}
        super().__init__(index, {"id": _new_id("msg"), **fields})
        self._texts: list[str] = []
        self._logprobs: list[Json] = []

    def open(self) -> list[Event]:
        return [*super().open(), self._part("added", _output_text("", []))]

    def add(self, text: str, logprobs: Sequence[Json] = ()) -> list[Event]:
        self._texts.append(text)
        self._logprobs += logprobs
        return [self._event("response.output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))]

    def last(self) -> list[Event]:
        text = "".join(self._texts)
        part = _output_text(text, self._logprobs)
        self.item["content"] = [part]
        done = self._event("response.output_text.done", content_index=0, text=text, logprobs=self._logprobs)
        return [done, self._part("done", part)]

    def _part(self, what: str, part: Json) -> Event:
        return self._event(f"response.content_part.{what}", content_index=0, part=part)


class _FunctionCallItem(_Item):
    def __init__(self, index: int, tool: OfferedTool) -> None:
        item = {"id": _new_id("fc"), "type": "function_call", **_call(tool), "arguments": "", "status": "in_progress"}
        super().__init__(index, item)
        self._fragments: list[str] = []

    def add(self, text: str, logprobs: Sequence[Json] = ()) -> list[Event]:
        self._fragments.append(text)
        return [self._event("response.function_call_arguments.delta", delta=text)]

    def last(self) -> list[Event]:
        self.item["arguments"] = "".join(self._fragments)
        return [self._event("response.function_call_arguments.done", arguments=self.item["arguments"])]


class _CustomToolCallItem(_Item):
    def __init__(self, index: int, tool: OfferedTool) -> None:
        item = {"id": _new_id("ctc"), "type": "custom_tool_call", **_call(tool), "input": "", "status": "in_progress"}
        super().__init__(index, item)
        self._input = CustomInput()

    def add(self, text: str, logprobs: Sequence[Json] = ()) -> list[Event]:
        return self._delta(self._input.feed(text))

    def last(self) -> list[Event]:
        delta = self._delta(self._input.end())
        self.item["input"] = self._input.text
        return [*delta, self._event("response.custom_tool_call_input.done", input=self._input.text)]

    def _delta(self, text: str) -> list[Event]:
        return [self._event("response.custom_tool_call_input.delta", delta=text)] if text else []


class OutputItems:
    """Turns the pieces of one reply into items. Each method returns the events in the order of OpenAI's.

    `finished` are the items that are complete. White space before a call or at the end is no message of its own.
    """

    def __init__(self, tools: Mapping[str, OfferedTool]) -> None:
        self.finished: list[Json] = []
        self._tools = tools
        self._current: _Item | None = None
        self._blank = ""  # white space that may begin a message
        self._logprobs: list[Json] = []  # of tokens whose text has not come yet

    def add(self, pieces: Sequence[Piece], logprobs: Sequence[Json] = ()) -> list[Event]:
        """Add the next pieces, which are certain after the tokens with these log-probabilities."""
        self._logprobs += logprobs
        events: list[Event] = []
        for kind, text in pieces:
            if kind == TEXT:
                events += self._add_text(text)
                continue
            self._blank, self._logprobs = "", []
            if kind == CALL:
                events += self._begin(self._call_item(text))
            elif kind == ARGUMENTS and self._current is not None:
                events += self._current.add(text)
            elif kind == REASONING:
                begun = [] if isinstance(self._current, _ReasoningItem) else self._begin(_ReasoningItem(self._index))
                assert self._current is not None
                events += [*begun, *self._current.add(text)]
        return events

    def end(self, status: str) -> list[Event]:
        """Complete the last item. An answer of nothing but a thought, or of nothing at all, gets an empty message."""
        is_silent = all(item["type"] == "reasoning" for item in self.finished) and (
            self._current is None or isinstance(self._current, _ReasoningItem)
        )
        if is_silent and status == "completed":
            return [*self._begin(_MessageItem(self._index)), *self._finish(status)]
        return self._finish(status)

    @property
    def items(self) -> list[Json]:
        """All items so far; the one that is being written is incomplete."""
        if self._current is None:
            return self.finished
        self._current.last()
        return [*self.finished, {**self._current.item, "status": "incomplete"}]

    @property
    def _index(self) -> int:
        return len(self.finished) + (self._current is not None)

    def _add_text(self, text: str) -> list[Event]:
        begun: list[Event] = []
        if not isinstance(self._current, _MessageItem):
            self._blank += text
            if not self._blank.strip():
                return []
            text, self._blank = self._blank, ""
            begun = self._begin(_MessageItem(self._index))
        assert self._current is not None
        logprobs, self._logprobs = self._logprobs, []
        return [*begun, *self._current.add(text, logprobs)]

    def _call_item(self, name: str) -> _Item:
        tool = self._tools.get(name, OfferedTool("function", name))
        return (_FunctionCallItem if tool.kind == "function" else _CustomToolCallItem)(self._index, tool)

    def _begin(self, item: _Item) -> list[Event]:
        ended = self._finish("completed")
        self._current = item
        return [*ended, *item.open()]

    def _finish(self, status: str) -> list[Event]:
        if self._current is None:
            return []
        events = self._current.close(status)
        self.finished.append(self._current.item)
        self._current = None
        return events


def _call(tool: OfferedTool) -> dict[str, Json]:
    namespace = {"namespace": tool.namespace} if tool.namespace else {}
    return {"call_id": call_id(), "name": tool.name, **namespace}


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}


def _output_text(text: str, logprobs: Sequence[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _copied(item: Mapping[str, Json]) -> Json:
    return dict(item)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
