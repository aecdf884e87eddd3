"""Which template a conversation with a model uses: one chosen for this model, the model's own, or a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from modules.chat.errors import ChosenTemplateUnusable
from modules.chat.template_files import InstructionTemplates, read_file
from modules.chat.templates import ModelTemplate
from modules.config.model_settings import ModelSettings
from modules.core.errors import LANGUAGES, WebUIError

KEY = "instruction_template"
"""The key in config-user.yaml; its value is the name of a template in a file."""
_OWN = ("None", "Custom (obtained from model metadata)")
"""What the original writes for the model's own template."""


class TemplateChoices:
    """The templates that users have chosen for single models.

    `default` returns the template of settings.yaml for models without one, "" if there is none. `flag` is the file of
    --chat-template-file, if any, which all models use. Raises InvalidTemplateFile if that is no template.
    """

    def __init__(
        self, files: InstructionTemplates, settings: ModelSettings, default: Callable[[], str], flag: str = ""
    ) -> None:
        self._files, self._settings, self._default = files, settings, default
        self._flag, self._of_flag = flag, read_file(Path(flag)) if flag else ""

    def apply(self, own: ModelTemplate) -> ModelTemplate:
        """Return the template that is used instead of the model's own, or that one.

        A chosen template that cannot be used has a `fault`, which is raised when the template is used: a conversation
        never goes on in another format than the chosen one.
        """
        if self._flag:
            return dataclasses.replace(own, source=self._of_flag, named={}, origin="flag", file=Path(self._flag).name)
        name = ""
        try:
            name = self.chosen(own.model)
            if name:
                return dataclasses.replace(own, source=self._files.read(name), named={}, origin="chosen", file=name)
        except WebUIError as error:
            reason = {language: error.say(language) for language in LANGUAGES}
            fault = ChosenTemplateUnusable(own.model, name, reason)
            return dataclasses.replace(own, source="", named={}, origin="chosen", file=name, fault=fault)
        return self.without_choice(own)

    def without_choice(self, own: ModelTemplate) -> ModelTemplate:
        """Return the template that a model uses if none is chosen for it."""
        if own.is_ours and self._default().strip():
            return dataclasses.replace(own, source=self._default(), origin="settings")
        return own

    def chosen(self, model: str) -> str:
        """Return the name of the template chosen for a model, "" if it uses its own. Raises SettingsError."""
        name = self._settings.get(model).get(KEY)
        return name if isinstance(name, str) and name not in _OWN else ""

    def models(self, name: str) -> list[str]:
        """Return the models for which a template is chosen. Raises SettingsError."""
        return self._settings.having(KEY, name)

    def choose(self, model: str, name: str) -> Path | None:
        """Choose a template for a model, or "" for the model's own.

        Return the backup path if config-user.yaml was invalid, else None. Raises SettingsError, and TemplateNotFound or
        InvalidTemplateFile for a template that cannot be used.
        """
        if name:
            self._files.read(name)
        return self._settings.set(model, KEY, name)
