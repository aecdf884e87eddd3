"""The defaults in settings.yaml: their sources, saving differences only, and undoing that."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config.defaults import Defaults
from modules.config.presets import Presets
from modules.config.settings import OPTIONS, SettingsStore
from modules.core.errors import NoSaveToUndo, OptionError, SettingsError, UnknownOption

COMMENTED = """\
# My settings
language: zh        # auto | zh | en

# The look
theme: dark         # auto | dark | light
# About my extension
my_extension-voice: 5
max_new_tokens: 300
# The end
"""


def defaults(folder: Path, content: str = "") -> Defaults:
    (folder / "presets").mkdir(exist_ok=True)
    (folder / "presets" / "warm.yaml").write_text("temperature: 1.5\n")
    file = folder / "settings.yaml"
    file.write_text(content)
    return Defaults(SettingsStore(file, Presets(folder / "presets")))


def test_every_setting_has_a_value_and_its_source(tmp_path: Path) -> None:
    table = defaults(tmp_path, "preset: warm\ntop_k: 7\ndark_theme: true\n").table()
    assert list(table) == list(OPTIONS)
    shown = {key: (table[key].value, table[key].source) for key in ("temperature", "top_k", "theme", "seed")}
    assert shown == {
        "temperature": (1.5, "preset"),
        "top_k": (7, "file"),
        "theme": ("dark", "file"),
        "seed": (OPTIONS["seed"].default, "default"),
    }


def test_only_differences_are_written_and_comments_and_unknown_keys_stay(tmp_path: Path) -> None:
    table = defaults(tmp_path, COMMENTED)
    saved = table.save({"theme": "auto", "language": "zh", "autoload_model": True, "truncation_length": "8192"})
    assert saved.written == {"language": "zh", "autoload_model": True, "truncation_length": 8192}
    assert saved.removed == ("theme",)
    kept = COMMENTED.replace("theme: dark         # auto", "# theme: auto")
    assert (tmp_path / "settings.yaml").read_text() == kept + "autoload_model: true\ntruncation_length: 8192\n"


def test_a_value_that_the_preset_has_anyway_is_not_written_but_another_one_is(tmp_path: Path) -> None:
    table = defaults(tmp_path, "preset: warm\n")
    assert table.save({"temperature": 1.5}).written == {}
    neutral = OPTIONS["temperature"].default
    assert table.save({"temperature": neutral}).written == {"temperature": neutral}
    assert table.table()["temperature"].value == neutral
    assert table.save({"preset": "", "temperature": neutral}).removed == ("preset", "temperature")
    assert (tmp_path / "settings.yaml").read_text() == ""


def test_a_setting_under_the_originals_name_is_replaced(tmp_path: Path) -> None:
    table = defaults(tmp_path, "dark_theme: true\nseed: 3\n")
    assert table.save({"theme": "auto"}).removed == ("theme",)
    assert (tmp_path / "settings.yaml").read_text() == "seed: 3\n"


def test_the_last_save_can_be_undone_once(tmp_path: Path) -> None:
    table = defaults(tmp_path, COMMENTED)
    table.save({"language": "en", "seed": 5})
    table.undo()
    assert (tmp_path / "settings.yaml").read_text() == COMMENTED
    assert table.table()["language"].value == "zh"
    with pytest.raises(NoSaveToUndo):
        table.undo()


def test_undoing_does_not_discard_what_was_changed_by_hand_since_then(tmp_path: Path) -> None:
    table = defaults(tmp_path, COMMENTED)
    table.save({"seed": 5})
    (tmp_path / "settings.yaml").write_text("seed: 6\n")
    with pytest.raises(SettingsError):
        table.undo()
    assert (tmp_path / "settings.yaml").read_text() == "seed: 6\n"


def test_an_invalid_value_changes_nothing(tmp_path: Path, subtests: pytest.Subtests) -> None:
    table = defaults(tmp_path, COMMENTED)
    for values, error in (({"seed": 1, "top_k": "many"}, OptionError), ({"sede": 1}, UnknownOption)):
        with subtests.test(values=values), pytest.raises(error):
            table.save(values)
        assert (tmp_path / "settings.yaml").read_text() == COMMENTED
    assert not table.can_undo


def test_a_file_that_became_invalid_is_kept_under_another_name(tmp_path: Path) -> None:
    table = defaults(tmp_path, COMMENTED)
    (tmp_path / "settings.yaml").write_text("language: [zh\n")
    saved = table.save({"seed": 5})
    assert saved.backup is not None and saved.backup.read_text() == "language: [zh\n"
    assert (saved.written, saved.removed) == ({"seed": 5}, ())
    assert (tmp_path / "settings.yaml").read_text() == "seed: 5\n"
