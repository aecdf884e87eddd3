"""A template chosen for a model is used for this model alone, and for as long as it can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.chat.errors import ChosenTemplateUnusable, InvalidTemplateFile, TemplateNotFound
from modules.chat.template_choices import TemplateChoices
from modules.chat.template_files import InstructionTemplates
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.config.model_settings import ModelSettings

OWN = ModelTemplate("a.gguf", "own {{ messages[0].content }}", {"tool_use": "tools"}, {"bos_token": "<s>"})
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def settings(tmp_path: Path) -> ModelSettings:
    return ModelSettings(tmp_path, lambda name: False)


@pytest.fixture
def choices(tmp_path: Path, settings: ModelSettings) -> TemplateChoices:
    files = InstructionTemplates(tmp_path / "instruction-templates")
    files.save("Mine", "mine {{ bos_token }}{{ messages[0].content }}")
    return TemplateChoices(files, settings, lambda: "")


def with_default(tmp_path: Path, settings: ModelSettings, default: str) -> TemplateChoices:
    return TemplateChoices(InstructionTemplates(tmp_path), settings, lambda: default)


def test_a_chosen_template_replaces_the_model_s_own_and_its_template_for_tools(choices: TemplateChoices) -> None:
    choices.choose("a.gguf", "Mine")
    used = choices.apply(OWN)
    assert (used.origin, used.file, used.is_ours) == ("chosen", "Mine", False)
    assert used.for_tools([{}]) == used.for_tools(None) == "mine {{ bos_token }}{{ messages[0].content }}"
    assert ChatTemplates().render(used, CHAT) == "mine <s>hi", "special tokens are the model's"


def test_other_models_keep_theirs(choices: TemplateChoices) -> None:
    choices.choose("a.gguf", "Mine")
    for name in ("b.gguf", "a.gguf2", "x/a.gguf", "A.gguf"):
        other = ModelTemplate(name, "other")
        assert choices.apply(other) is other


def test_the_model_s_own_template_can_be_chosen_again_and_other_settings_stay(
    choices: TemplateChoices, settings: ModelSettings
) -> None:
    settings.save("a.gguf", "llama.cpp", {"n_ctx": 512}, {"n_ctx"})
    choices.choose("a.gguf", "Mine")
    settings.save("a.gguf", "llama.cpp", {"n_ctx": 256}, {"n_ctx"})
    assert choices.chosen("a.gguf") == "Mine", "saving the options of a load does not forget it"
    choices.choose("a.gguf", "")
    assert choices.apply(OWN) is OWN
    assert settings.get("a.gguf") == {"loader": "llama.cpp", "n_ctx": 256}
    choices.choose("b.gguf", "Mine")
    choices.choose("b.gguf", "")
    assert "b.gguf" not in settings.path.read_text()


def test_the_original_s_words_for_a_model_s_own_template_are_understood(
    choices: TemplateChoices, settings: ModelSettings
) -> None:
    for written in ("None", "Custom (obtained from model metadata)"):
        settings.set("a.gguf", "instruction_template", written)
        assert choices.apply(OWN) is OWN


def test_a_template_that_cannot_be_used_is_not_chosen(choices: TemplateChoices, tmp_path: Path) -> None:
    (tmp_path / "instruction-templates" / "broken.yaml").write_text("a: [")
    with pytest.raises(InvalidTemplateFile):
        choices.choose("a.gguf", "broken")
    with pytest.raises(TemplateNotFound, match="Did you mean 'Mine'"):
        choices.choose("a.gguf", "Mime")
    assert choices.apply(OWN) is OWN


def test_a_chosen_template_that_is_gone_is_refused_and_not_replaced(choices: TemplateChoices, tmp_path: Path) -> None:
    choices.choose("a.gguf", "Mine")
    (tmp_path / "instruction-templates" / "Mine.jinja").unlink()
    templates, used = ChatTemplates(), choices.apply(OWN)
    with pytest.raises(ChosenTemplateUnusable, match=r"Mine was chosen for a\.gguf, but it cannot be used"):
        templates.render(used, CHAT)
    (note,) = templates.notes(used)
    assert "Mine" in note.text["en"] and "Mine" in note.text["zh"]


def test_settings_that_cannot_be_read_are_the_same(choices: TemplateChoices, settings: ModelSettings) -> None:
    settings.path.write_text("a.gguf: [")
    with pytest.raises(ChosenTemplateUnusable, match=r"config-user\.yaml"):
        choices.apply(OWN).for_tools(None)


def test_the_template_of_settings_yaml_is_for_models_without_one(tmp_path: Path, settings: ModelSettings) -> None:
    without = ModelTemplate("a.gguf", "")
    assert with_default(tmp_path, settings, " ").apply(without) is without
    choices = with_default(tmp_path, settings, "default {{ messages[0].content }}")
    assert choices.apply(OWN) is OWN
    used = choices.apply(without)
    assert used.origin == "settings" and ChatTemplates().render(used, CHAT) == "default hi"
    (note,) = ChatTemplates().notes(used)
    assert "settings.yaml" in note.text["en"]


def test_the_file_of_the_flag_is_for_all_models(tmp_path: Path, settings: ModelSettings) -> None:
    files = InstructionTemplates(tmp_path)
    files.save("Mine", "mine")
    settings.set("a.gguf", "instruction_template", "Mine")
    file = tmp_path / "flag.txt"
    file.write_text("flag {{ messages[0].content }}")
    choices = TemplateChoices(files, settings, lambda: "", str(file))
    for own in (OWN, ModelTemplate("b.gguf", "")):
        used = choices.apply(own)
        assert (used.origin, used.is_ours) == ("flag", False) and ChatTemplates().render(used, CHAT) == "flag hi"
    (note,) = ChatTemplates().notes(choices.apply(OWN))
    assert f" {file.name} " in note.text["en"] and "--chat-template-file" in note.text["zh"], "without its folder"


def test_a_file_of_the_flag_that_is_no_template_is_reported_at_start(
    tmp_path: Path, make_app: Callable[..., App]
) -> None:
    for file in (tmp_path / "nowhere.jinja", tmp_path):
        with pytest.raises(InvalidTemplateFile, match="cannot be used as an instruction template"):
            make_app("--chat-template-file", str(file))
