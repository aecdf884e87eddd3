"""The note on a context that is longer than the one the model was trained with."""

from __future__ import annotations

from modules.core.events import Note
from modules.runtime.load_plan import LoadPlan

_CONTEXTS = ("n_ctx", "max_seq_len")
_EXTENSIONS = ("alpha_value", "compress_pos_emb", "rope_freq_base")
_SET_BY_USER = ("form", "saved", "flag")


def context_note(plan: LoadPlan) -> Note | None:
    """Return a note if the context exceeds the trained one and the user has set nothing that extends it; else None."""
    trained, settings = plan.record.context_length, plan.settings
    extensions = [settings[key] for key in _EXTENSIONS if key in settings]
    if not trained or not extensions or any(setting.source in _SET_BY_USER for setting in extensions):
        return None
    for key in _CONTEXTS:
        if key in settings and int(settings[key].value) > trained:
            return Note(
                key,
                {
                    "en": f"The model was trained with {trained} tokens: beyond them, answers get worse. "
                    "Set an option under “Context extension” as well.",
                    "zh": f"该模型以 {trained} 个词符训练，超出后回答质量会下降。请同时设置“上下文扩展”中的选项。",
                },
            )
    return None
