"""Convert the original's old instruction templates, which state the parts of a turn, to Jinja.

Such a template has the keys `turn_template`, `user`, `bot`, `context` and `system_message`, all of them texts. The
converted template writes the same prompts as the original's, with one exception: a `context` without
<|system-message|>, as the files of 2023 have it, is the default system message, while the original drops it.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.errors import Words

_USER, _BOT, _SYSTEM = "<|user-message|>", "<|bot-message|>", "<|system-message|>"
_USER_NAME, _BOT_NAME = "<|user|>", "<|bot|>"
KEYS = ("turn_template", "user", "bot", "context", "system_message")

_TEMPLATE = """\
{{%- if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}}{{{{ {opening} }}}}{{% endif %}}
{{%- for message in messages %}}
{{%- if message.role == 'system' %}}{{{{ {system[0]} + message.content + {system[1]} }}}}
{{%- elif message.role == 'user' %}}{{{{ {user[0]} + message.content + {user[1]} }}}}
{{%- else %}}{{{{ {bot[0]} + message.content + {bot[1]} }}}}
{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ {generation} }}}}{{% endif %}}"""


class NotATurnTemplate(ValueError):
    """`problem` says what the old template lacks, as the end of a sentence."""

    def __init__(self, problem: Words) -> None:
        super().__init__(problem["en"])
        self.problem = problem


def to_jinja(old: Mapping[str, object]) -> str:
    """Return the Jinja template of an old one. Raises NotATurnTemplate."""
    texts = {key: old.get(key) if old.get(key) is not None else "" for key in KEYS}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise NotATurnTemplate({"en": f"{key} is not a text", "zh": f"{key} 不是文本"})
    turn, user, bot, context, default = (str(texts[key]) for key in KEYS)
    before_user, rest = _split(turn, _USER)
    after_user, rest = _split(rest, _BOT_NAME)
    before_bot, after_bot = _split(rest, _BOT)
    if _SYSTEM in context:
        before_system, _, after_system = context.partition(_SYSTEM)
        after_system = after_system.partition(_SYSTEM)[0]
    else:
        default = default or context.rstrip()
        before_system, after_system = "", context[len(context.rstrip()) :]
    before_bot = bot + before_bot.replace(_BOT_NAME, bot)
    return _TEMPLATE.format(
        opening=_literal(before_system + default + after_system),
        system=(_literal(before_system), _literal(after_system)),
        user=(_literal(before_user.replace(_USER_NAME, user)), _literal(after_user)),
        bot=(_literal(before_bot), _literal(after_bot)),
        generation=_literal(before_bot.rstrip(" ")),
    )


def _split(text: str, mark: str) -> tuple[str, str]:
    """Return what stands before and after `mark`."""
    before, found, after = text.partition(mark)
    if not found:
        raise NotATurnTemplate(
            {"en": f"turn_template has no {mark} where it belongs", "zh": f"turn_template 的相应位置缺少 {mark}"}
        )
    return before, after


def _literal(text: str) -> str:
    """Return `text` as a string of Jinja. Some files have \\n for a line break, in single quotes."""
    text = text.replace("\\n", "\n")
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
