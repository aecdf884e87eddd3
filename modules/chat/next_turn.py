"""Find out what a chat template puts between an answer and the question that comes next."""

from __future__ import annotations

from collections.abc import Sequence

from modules.chat.features import RenderAll, TemplateFeatures, with_parts
from modules.chat.message import Message

_ANSWER, _QUESTION = "probeanswerone", "probeusertwo"
_MESSAGES: Sequence[Message] = [
    {"role": "user", "content": "probeuserone"},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _QUESTION},
]
LONGEST = 200
"""Most characters of the text between. A longer one is more than the marks of two messages."""


def probe_next_turn(render: RenderAll, features: TemplateFeatures, source: str) -> str:
    """Return the text between an answer and the next question, such as "<|im_end|>\\n<|im_start|>user\\n".

    Returns "" if the template refuses such a conversation, or writes more than LONGEST characters there.
    """
    (rendering,) = render([{"messages": with_parts(_MESSAGES, features.parts)}])
    answered, _, rest = rendering.text.partition(_ANSWER)
    between, asked, _ = rest.partition(_QUESTION)
    return between if answered and asked and len(between) <= LONGEST else ""
