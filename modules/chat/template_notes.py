"""Say how conversations are adapted to a chat template, for the notes of a load."""

from __future__ import annotations

from modules.chat.features import TemplateFeatures
from modules.core.errors import Words

ALPACA_NOTE: Words = {
    "en": "No chat template was found in the model's files, so that the Alpaca format is used. "
    "Answers may be worse than in the format that the model was trained on.",
    "zh": "模型文件中没有聊天模板，因此使用 Alpaca 格式。若与模型训练时的格式不同，回复质量可能下降。",
}

_NO_SYSTEM: Words = {
    "en": "the system message becomes the beginning of the first question",
    "zh": "系统消息置于首个提问开头",
}
_ONE_SYSTEM: Words = {
    "en": "several system messages become one at the beginning",
    "zh": "多条系统消息合并为开头的一条",
}
_ALTERNATING: Words = {
    "en": "successive messages of the same role are merged",
    "zh": "同一角色的连续消息会合并",
}
_QUESTION_FIRST: Words = {
    "en": "a greeting of the assistant gets an empty question before it",
    "zh": "助手的开场白之前会补一条空提问",
}


def origin_note(origin: str, file: str) -> Words | None:
    """Return where the template comes from, None if it is the model's own."""
    if origin == "chosen":
        return {
            "en": f"Uses the instruction template {file}, which was chosen for this model.",
            "zh": f"使用为此模型指定的指令模板 {file}。",
        }
    if origin == "flag":
        return {
            "en": f"Uses the instruction template {file} of --chat-template-file.",
            "zh": f"使用 --chat-template-file 指定的指令模板 {file}。",
        }
    if origin == "settings":
        return {
            "en": "No chat template was found in the model's files, so that the one of settings.yaml is used.",
            "zh": "模型文件中没有聊天模板，因此使用 settings.yaml 中的模板。",
        }
    return None


def adaptations(features: TemplateFeatures) -> Words | None:
    """Return what happens to conversations that the template would refuse or shorten; None if it takes them all."""
    changes = [
        *([_NO_SYSTEM] if not features.system else []),
        *([_ONE_SYSTEM] if features.system and not (features.several_systems and features.late_system) else []),
        *([_ALTERNATING] if not features.equal_neighbors else []),
        *([_QUESTION_FIRST] if not features.assistant_first else []),
    ]
    if not changes:
        return None
    return {
        "en": f"Conversations are adapted to the chat template: {'; '.join(change['en'] for change in changes)}.",
        "zh": f"对话会按聊天模板的要求调整：{'；'.join(change['zh'] for change in changes)}。",
    }
