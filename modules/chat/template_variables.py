"""Find out which of the known variables, such as enable_thinking, a chat template reads, and what it takes them for.

A variable that is not given leaves the choice to the template. It is read if some value of it changes a prompt; the
value that changes none is its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.chat.features import RenderAll, with_parts
from modules.chat.message import Message
from modules.chat.renderer import Rendering
from modules.core.events import Json

_UNKNOWN = "probevalue"
_EFFORTS = ("low", "medium", "high")
"""The choices of a template that writes any word into its prompt: those that models are trained on."""


@dataclass(frozen=True)
class Known:
    """A variable that published templates read. `kind` is "bool", "choice" or "text"; a choice has `values` to try."""

    name: str
    kind: str = "bool"
    values: tuple[Json, ...] = (False, True)


KNOWN = (
    Known("enable_thinking"),
    Known("thinking"),
    Known("reasoning_effort", "choice", ("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    Known("preserve_thinking"),
    Known("clear_thinking"),
    Known("keep_past_thinking"),
    Known("truncate_history_thinking"),
    Known("drop_thinking"),
    Known("model_identity", "text", ()),
    Known("date_string", "text", ()),
)


@dataclass(frozen=True)
class TemplateVariable:
    """A variable that the template reads, and the `choices` of one that takes certain words only.

    `default` is the value that equals leaving it out, None if there is none or if it is not known.
    """

    name: str
    kind: str
    default: Json = None
    choices: tuple[Json, ...] = ()

    def to_json(self) -> dict[str, Json]:
        choices = {"choices": list(self.choices)} if self.choices else {}
        return {"name": self.name, "kind": self.kind, "default": self.default, **choices}


def probe_variables(render: RenderAll, system: bool, parts: frozenset[str]) -> tuple[TemplateVariable, ...]:
    """Return the known variables that the template reads, as `render` renders it.

    `system` and `parts` are those of its TemplateFeatures.
    """
    conversations = _conversations(system, parts)
    bases = {known: [one for one in conversations if known.name not in one] for known in KNOWN}
    prompts = {
        (known, value): [{**base, **({} if value is None else {known.name: value})} for base in bases[known]]
        for known in KNOWN
        for value in (None, *known.values, _UNKNOWN)
    }
    rendered = iter(render([prompt for some in prompts.values() for prompt in some]))  # in one request, with its limits
    results = {key: [next(rendered) for _ in some] for key, some in prompts.items()}
    found = (
        _variable(
            known,
            {value: results[known, value] for value in known.values},
            results[known, None],
            results[known, _UNKNOWN],
        )
        for known in KNOWN
    )
    return tuple(variable for variable in found if variable)


def _variable(
    known: Known,
    results: Mapping[Json, Sequence[Rendering]],
    plain: Sequence[Rendering],
    unknown: Sequence[Rendering],
) -> TemplateVariable | None:
    """Return the variable if a value of it changes a prompt. Values that the template refuses are no choices.

    `results` are the prompts by value, `plain` those without one, and `unknown` those with a word of no meaning.
    """
    if any(rendering.shows(_UNKNOWN) for rendering in unknown):
        choices: tuple[Json, ...] = _EFFORTS if known.kind == "choice" else known.values
    else:
        choices = tuple(
            value
            for value, result in results.items()
            if not _refused(result, plain) and (known.kind == "bool" or result != unknown)
        )
    changing = [value for value in choices if results[value] != plain]
    if not changing and not (known.kind == "text" and unknown != plain and not _refused(unknown, plain)):
        return None
    default = next((value for value in choices if results[value] == plain), None)
    return TemplateVariable(known.name, known.kind, default, choices if known.kind == "choice" else ())


def _refused(result: Sequence[Rendering], plain: Sequence[Rendering]) -> bool:
    """Whether a value makes the template refuse what it takes without."""
    return any(one.error and not before.error for one, before in zip(result, plain, strict=True))


def _conversations(system: bool, parts: frozenset[str]) -> list[dict[str, Json]]:
    """Return the variables of prompts in which published templates read the known ones."""
    system_message: list[Message] = [{"role": "system", "content": "Be brief."}] if system else []
    question: Message = {"role": "user", "content": "Why?"}
    answer: Message = {"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "thinking": "Hm."}
    short, long = with_parts([question], parts), with_parts([*system_message, question, answer, question], parts)
    thinking = {"enable_thinking": True, "thinking": True}
    return [{"messages": short}, {"messages": long}, {"messages": long, **thinking}]
