"""The note on a context that is longer than the one the model was trained with."""

from __future__ import annotations

from modules.core.events import Note
from modules.loaders.load_settings import BY_USER, CONTEXT_KEYS
from modules.runtime.load_plan import LoadPlan

_EXTENSIONS = ("alpha_value", "compress_pos_emb", "rope_freq_base")


def context_note(plan: LoadPlan) -> Note | None:
    """Return a note if the context exceeds the trained one and the user has set nothing that extends it; else None."""
    trained, settings = plan.record.context_length, plan.settings
    extensions = [settings[key] for key in _EXTENSIONS if key in settings]
    if not trained or not extensions or any(setting.source in BY_USER for setting in extensions):
        return None
    for key in CONTEXT_KEYS:
        if key in settings and int(settings[key].value) > trained:
            return Note(
                key,
                {
                    "en": f"The model was trained on contexts of {trained} tokens; beyond that, answers get worse. "
                    "Set an option under “Context extension” as well.",
                    "zh": f"该模型训练时的上下文长度为 {trained} 个词符，超出后回复质量会下降。"
                    "请同时设置“上下文扩展”中的选项。",
                },
            )
    return None
