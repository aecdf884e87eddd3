"""Find out how a model marks its thoughts, and whether a prompt has already opened one."""

from __future__ import annotations

from functools import lru_cache

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers


def reasoning_markers(
    templates: ChatTemplates, template: ModelTemplate, prompt_text: str
) -> tuple[tuple[ReasoningMarkers, ...], bool]:
    """Return the markers that may begin a reply to the prompt, and whether the prompt ends within a thought.

    The first of them is then the one that the prompt has opened. The model's own markers come before the known ones of
    other models: many templates show none, and fine-tuned models follow other formats than their template's. Raises
    what `ChatTemplates.features` raises.
    """
    markers = _possible(templates.features(template).markers)
    opened = next((one for one in markers if prompt_text.rstrip().endswith(one.open)), None)
    if opened is None:
        return markers, False
    return (opened, *(one for one in markers if one is not opened)), True


@lru_cache(maxsize=32)
def _possible(own: ReasoningMarkers | None) -> tuple[ReasoningMarkers, ...]:
    if own is None:
        return tuple(KNOWN_MARKERS)
    return (own, *(known for known in KNOWN_MARKERS if known.open != own.open))
