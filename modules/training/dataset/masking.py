"""Which parts of a rendered conversation are trained, found by rendering it: templates are not understood.

What the template adds for an answer, behind the prompt that asks for this answer, is what a model writes itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from modules.chat.message import Message
from modules.chat.renderer import Rendering
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.events import Json
from modules.core.prompt import common_prefix
from modules.core.reasoning import KNOWN_MARKERS
from modules.engines.training.samples import Segments, joined
from modules.training.dataset.conversations import THOUGHTS, Conversation
from modules.training.dataset.values import BadValue

_GENERATION = re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}")
_END_GENERATION = re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}")
_OPEN, _CLOSE = "\ue0a1\ue0f3\ue0a1", "\ue0a2\ue0f3\ue0a2"
"""Marks that stand for the beginning and the end of a block for training: private characters, in no text."""

_PROMPT_END = 6
"""Characters at the end of a prompt by which the beginning of its answer is found."""


@dataclass(frozen=True)
class MaskedText:
    """A conversation as text. `eos` is whether the template writes nothing behind the last answer.

    `last_only` says that the template rewrites earlier turns, so that only the last answer is trained. `left_out` says
    that some answer is not in the text as it was given, `begins_thought` that the prompt for the last answer begins a
    thought that the answer does not have.
    """

    segments: Segments
    eos: bool = False
    last_only: bool = False
    left_out: bool = False
    begins_thought: bool = False


@dataclass(frozen=True)
class _Request:
    """A conversation to render, with or without the generation prompt."""

    messages: Sequence[Message]
    prompt: bool
    tools: Json


@dataclass(frozen=True)
class _Turn:
    """One answer: the prompt for it, the conversation up to its end, and the one up to the question."""

    message: Message
    prompt: Rendering
    answered: Rendering
    question: Rendering

    @cached_property
    def content(self) -> str:
        return str(self.message["content"]).strip()

    @cached_property
    def content_end(self) -> int:
        """Where the answer ends in `answered`; 0 if the template has changed it."""
        found = self.answered.text.rfind(self.content)
        return found + len(self.content) if self.content and found >= 0 else 0

    @cached_property
    def span(self) -> tuple[int, int] | None:
        """Where the answer with its end mark is in `answered`; None if the template refuses it.

        White space behind the end mark belongs to the next turn. A prompt may go on otherwise than the history does,
        for example with an open thought: then the answer begins where they part.
        """
        if self.prompt.error or self.answered.error:
            return None
        text = self.answered.text
        start = common_prefix(self.prompt.text, text)
        if self.content_end:  # the answer may begin like the rest of the prompt by chance
            start = min(start, self.content_end - len(self.content))
        tail = text[self.content_end :]
        end = len(text) - (len(tail) - len(tail.rstrip()) if tail.strip() else 0)
        return (start, end) if start < end else None

    @cached_property
    def is_question_rewritten(self) -> bool:
        """Whether the template writes the question differently once it is answered, for example without the system."""
        question = self.question.text.rstrip() if self.question is not self.prompt else ""
        return not self.answered.text.startswith(question)

    @cached_property
    def missing(self) -> str:
        """What the prompt has before this answer, while the history has not: an empty thought, or one that is begun."""
        if self.span is None or self.is_question_rewritten:
            return ""
        start = self.span[0]
        return self.prompt.text[start:] if start == self.content_end - len(self.content) else ""

    @cached_property
    def begins_thought(self) -> bool:
        """Whether an answer cannot follow the prompt as it is, because that has begun a thought."""
        return any(
            markers.open in self.missing and markers.close not in self.missing.rpartition(markers.open)[2]
            for markers in KNOWN_MARKERS
        )

    def cut(self, spans: Sequence[tuple[int, int]]) -> Segments:
        """Return the text up to this answer, with the trained `spans`, the last of which is this answer's.

        What the prompt has before the answer is there too, so that it is trained as the model will be asked.
        """
        text, pieces, done = self.answered.text, list[tuple[str, bool]](), 0
        for start, end in spans:
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = max(end, done)
        if pieces and not self.begins_thought:
            pieces.insert(-1, (self.missing, False))
        return joined([*pieces, (text[done:], False)])

    @property
    def is_refused_greeting(self) -> bool:
        """Whether the template cannot ask for it, because nothing comes before it. Then it is context."""
        return bool(self.prompt.error or self.answered.error)

    @property
    def is_left_out(self) -> bool:
        """Whether the answer or its thoughts are not in the text as they were given."""
        thoughts = next((str(self.message[name]).strip() for name in THOUGHTS if name in self.message), "")
        return self.content not in self.answered.text or thoughts not in self.answered.text

    @property
    def alone(self) -> Segments:
        """The text in which this answer alone is trained, behind the prompt that a model gets for it."""
        text, prompt = self.answered.text, self.prompt.text
        start, end = self.span or (0, 0)
        if self.is_question_rewritten and self.content_end:
            before = self.content_end - len(self.content)
            found = text.rfind(prompt[-_PROMPT_END:], 0, before)
            return joined([(prompt, False), (text[found + _PROMPT_END if found >= 0 else before : end], True)])
        return self.cut([(start, end)])


@dataclass
class TemplateMasks:
    """Renders conversations by one template and finds the answers in them."""

    templates: ChatTemplates
    template: ModelTemplate
    _marked: ModelTemplate | None = field(init=False)

    def __post_init__(self) -> None:
        self._marked = _with_marks(self.template)

    def mask(self, conversations: Sequence[Conversation]) -> list[MaskedText | BadValue]:
        """Return the text of each conversation, or why it cannot be used. Raises TemplateStopped or NoDefaultTemplate.

        Many at a time are rendered faster than one by one.
        """
        asked: list[_Request] = []
        for conversation in conversations:
            for answer in conversation.answers:
                asked.append(_Request(conversation.messages[:answer], True, conversation.tools))
                asked.append(_Request(conversation.messages[: answer + 1], False, conversation.tools))
        texts = self._render(asked)
        parted = [
            index
            for index in range(0, len(texts), 2)
            if not (texts[index].error or texts[index + 1].error or texts[index + 1].text.startswith(texts[index].text))
        ]
        unprompted = self._render([dataclasses.replace(asked[index], prompt=False) for index in parted])
        questions = dict(zip(parted, unprompted, strict=True))
        results: list[MaskedText | BadValue] = []
        done = 0
        for conversation in conversations:
            turns = []
            for answer in conversation.answers:
                question = questions.get(done, texts[done])
                turns.append(_Turn(conversation.messages[answer], texts[done], texts[done + 1], question))
                done += 2
            try:
                results.append(self._masked(conversation, turns))
            except BadValue as problem:
                results.append(problem)
        return results

    def _render(self, requests: Sequence[_Request]) -> list[Rendering]:
        """Render all requests. Those whose tools are the same are rendered together; mostly there are none."""
        texts: list[Rendering] = []
        for tools, group in itertools.groupby(requests, key=lambda request: request.tools):
            conversations = [(request.messages, request.prompt) for request in group]
            texts += self.templates.render_all(self.template, conversations, {"tools": tools} if tools else None)
        return texts

    def _masked(self, conversation: Conversation, turns: Sequence[_Turn]) -> MaskedText:
        last = turns[-1]
        if last.answered.error:
            raise BadValue(
                f"the chat template refuses it: {last.answered.error}", f"聊天模板拒绝该对话：{last.answered.error}"
            )
        whole = last.answered.text
        eos = not whole[last.content_end :].strip()
        spans = [self._span_in(whole, turn) for turn in turns]
        greeting = len(turns) > 1 and turns[0].is_refused_greeting
        if all(span or (index == 0 and greeting) for index, span in enumerate(spans)):
            segments, left_out = last.cut([span for span in spans if span]), any(turn.is_left_out for turn in turns)
            return MaskedText(segments, eos, False, left_out, last.begins_thought)
        if self._marked is not None:
            return MaskedText(self._by_marks(conversation), eos)
        return MaskedText(last.alone, eos, len(turns) > 1, last.is_left_out, last.begins_thought)

    def _span_in(self, whole: str, turn: _Turn) -> tuple[int, int] | None:
        """Return where an answer is in the whole conversation, None if the template has rewritten what is before it.

        A template may end a conversation with the EOS token that does not follow earlier answers.
        """
        if turn.span is None or turn.is_question_rewritten:
            return None
        start, end = turn.span
        if whole.startswith(turn.answered.text[:end]):
            return start, end
        eos = str(self.template.special_tokens.get("eos_token", ""))
        shorter = turn.answered.text[:end].removesuffix(eos).rstrip()
        return (start, len(shorter)) if len(shorter) >= turn.content_end and whole.startswith(shorter) else None

    def _by_marks(self, conversation: Conversation) -> Segments:
        """Return the segments by the template's own `{% generation %}` blocks."""
        assert self._marked is not None
        tools = {"tools": conversation.tools} if conversation.tools else None
        (rendering,) = self.templates.render_all(self._marked, [(conversation.messages, False)], tools)
        if rendering.error:
            raise BadValue(f"the chat template refuses it: {rendering.error}", f"聊天模板拒绝该对话：{rendering.error}")
        pieces: list[tuple[str, bool]] = []
        for index, part in enumerate(rendering.text.split(_OPEN)):
            trained, found, rest = part.partition(_CLOSE)
            pieces += [(trained, bool(index)), (rest, False)] if found else [(part, bool(index))]
        return joined(pieces)


def _with_marks(template: ModelTemplate) -> ModelTemplate | None:
    """Return the template with marks around its blocks for training, None if it has no such blocks."""
    source = template.source
    if not _GENERATION.search(source):
        return None

    def block(mark: str) -> str:
        return rf"{{%\1 if true %}}{{{{ '{mark}' }}}}{{%- endif \2%}}"

    source = _END_GENERATION.sub(block(_CLOSE), _GENERATION.sub(block(_OPEN), source))
    return dataclasses.replace(template, source=source)
