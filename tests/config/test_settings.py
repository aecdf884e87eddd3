"""settings.yaml: valid content, and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.config.presets import Presets
from modules.config.settings import Settings, SettingsStore, read
from modules.core.errors import SettingsError
from modules.core.paths import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def refusal(path: Path, text: str | bytes) -> SettingsError:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as refused:
        read(path)
    assert refused.value.file == str(path)
    assert refused.value.say("zh") != refused.value.say("en") or isinstance(text, bytes)
    return refused.value


def test_the_shipped_file_has_the_defaults() -> None:
    assert read(ROOT / "settings.yaml", required=True) == Settings()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}\n", "\ufeff# with a byte order mark\n"])
def test_an_empty_file_means_the_defaults(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    assert read(path) == Settings()


def test_a_missing_file_means_the_defaults_unless_it_is_required(path: Path) -> None:
    assert read(path) == Settings()
    with pytest.raises(SettingsError, match="file not found"):
        read(path, required=True)


def test_values_are_read(path: Path) -> None:
    path.write_text("language: zh\ntheme: dark\nsystem_message: 说中文。\ntemperature: 0\nseed: 42\n", encoding="utf-8")
    assert read(path) == Settings("zh", "dark", "说中文。", generation={"temperature": 0.0, "seed": 42})


def test_a_system_message_may_have_several_lines(path: Path) -> None:
    path.write_text("system_message: |\n  one\n  two: three\n")
    assert read(path).system_message == "one\ntwo: three"


def test_a_syntax_error_is_reported_with_line_and_column(path: Path) -> None:
    error = refusal(path, "language: zh\ntheme: [dark\nseed: 1\n")
    assert "line 3, column 5" in error.say("en")
    assert "第 3 行第 5 列" in error.say("zh")


def test_unknown_keys_are_listed_once_with_what_they_may_mean(path: Path) -> None:
    path.write_text("temprature: 1\ngallery: true\nmax_new_tokens_min: 1\nLanguag: zh\nseed: 3\n")
    settings = read(path)
    assert settings.generation == {"seed": 3}
    notice = settings.notice(path)
    assert notice is not None
    unknown = "temprature (did you mean temperature?), gallery, max_new_tokens_min, Languag (did you mean language?)"
    assert notice["en"] == f"{path}: kept, but not used: {unknown}."
    assert "temprature（是否想用 temperature？）、gallery、" in notice["zh"]
    assert Settings().notice(path) is None


ORIGINAL = r"""
show_controls: true
start_with: ''
mode: instruct
chat-instruct_command: |-
  Continue the chat dialogue below. Write a single reply for the character "<|character|>".

  <|prompt|>
enable_web_search: false
selected_tools: []
prompt-notebook: ''
preset: Top-P
max_new_tokens: 400
max_new_tokens_min: 1
max_tokens_second: 0
auto_max_new_tokens: true
enable_thinking: true
reasoning_effort: medium
stream: true
static_cache: false
seed: -1
custom_stopping_strings: ''
custom_token_bans: ''
dark_theme: true
temperature: 1
top_p: 0.95
adaptive_target: 0
adaptive_decay: 0.9
sampler_priority: |-
  repetition_penalty
  temperature
  top_k
  adaptive_p
  mirostat
dry_sequence_breakers: '"\n", ":", "\"", "*"'
grammar_string: ''
character: Assistant
custom_system_message: Be brief.
default_extensions: []
image_seed: -1
gallery-open: false
"""


def test_the_file_of_todays_original_is_read_and_what_is_unknown_stays_in_it(path: Path, tmp_path: Path) -> None:
    path.write_text(ORIGINAL)
    store = SettingsStore(path, Presets(tmp_path))
    settings = store.current
    assert (settings.theme, settings.system_message, settings.preset) == ("dark", "Be brief.", "Top-P")
    assert settings.generation["max_new_tokens"] == 400
    assert settings.generation["sampler_priority"] == "repetition_penalty\ntemperature\ntop_k\nmirostat"
    assert "dark_theme" not in settings.unknown
    assert (settings.mode, settings.character) == ("instruct", "Assistant")
    assert settings.chat_instruct_command.startswith("Continue the chat dialogue below.")
    assert {"show_controls", "adaptive_target", "default_extensions"} <= set(settings.unknown)
    assert store.notice is not None
    assert "did you mean" not in store.notice["en"]
    store.set("autoload_model", True)
    assert path.read_text().replace("autoload_model: true\n", "").strip() == ORIGINAL.strip()
    assert read(path) == dataclasses.replace(settings, autoload_model=True)


def test_a_command_for_characters_without_the_conversation_is_refused(path: Path) -> None:
    assert "<|prompt|>" in str(refusal(path, "chat-instruct_command: Write as <|character|>.\n"))
    path.write_text("chat-instruct_command: 'As <|character|>: <|prompt|>'\nmode: chat\n")
    assert read(path) == Settings(mode="chat", chat_instruct_command="As <|character|>: <|prompt|>")


def test_our_own_names_win_over_the_originals(path: Path) -> None:
    path.write_text("dark_theme: true\ntheme: light\ncustom_system_message: a\nsystem_message: b\n")
    assert read(path) == Settings(theme="light", system_message="b")
    assert "dark_theme: 'perhaps'" in str(refusal(path, "dark_theme: perhaps\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language: fr\n", "language: 'fr' is not acceptable; expected one of auto, zh, en"),
        ("temperature: hot\n", "temperature: 'hot'"),
        ("temperature: 99\n", "a number from 0 to 5"),
        ("seed: 1.5\n", "seed"),
        ("system_message: [a, b]\n", "system_message"),
        ("max_new_tokens:\n", "max_new_tokens"),
    ],
)
def test_an_invalid_value_is_named_with_the_expected_values(path: Path, text: str, message: str) -> None:
    assert message in str(refusal(path, text))


@pytest.mark.parametrize("text", ["- a\n- list\n", "just words\n", "42\n", "[]\n", "false\n"])
def test_a_file_that_is_not_a_mapping_is_an_error(path: Path, text: str) -> None:
    assert "key: value" in str(refusal(path, text))


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00language",
        b"language: \x07\n",
        b"system_message: !!python/object/apply:os.getcwd []\n",
        b"system_message: 2024-13-45\n",
        b"? [a, b]\n: c\n",
        b"a: *nowhere\n",
        b"seed: 0x_\n",
    ],
)
def test_malicious_or_malformed_content_is_rejected_with_an_error(path: Path, text: bytes) -> None:
    refusal(path, text)


def test_a_folder_instead_of_the_file_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SettingsError):
        read(path)


def test_a_preset_that_cannot_be_read_is_logged_and_sets_nothing(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("preset: gone\ntop_k: 7\n")
    store = SettingsStore(path, Presets(tmp_path / "presets"))
    assert store.preset_values("gone") == {} and "gone" in caplog.text
    assert store.preset_values("") == {}
