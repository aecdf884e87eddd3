"""Presets: named sets of sampling parameters, one YAML file each."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config.presets import NEUTRAL, Presets
from modules.core.errors import OptionError, PresetNotFound, SettingsError
from modules.core.paths import ROOT
from modules.loaders.generation_settings import PARAMETERS, changed, require_supported, resolve
from modules.loaders.registry import LOADERS


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets")


def write_preset(presets: Presets, name: str, text: str) -> Path:
    presets.folder.mkdir(exist_ok=True)
    path = presets.folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_missing_folder_has_no_presets(presets: Presets) -> None:
    assert presets.names() == []


def test_presets_are_listed_by_name_without_other_files(presets: Presets) -> None:
    for name in ("beta", "Alpha", "创意", ".hidden"):
        write_preset(presets, name, "top_k: 5\n")
    write_preset(presets, "x", "").rename(presets.folder / "notes.txt")
    (presets.folder / "folder.yaml").mkdir()
    assert presets.names() == ["Alpha", "beta", "创意"]


def test_parameters_missing_from_a_preset_are_neutral(presets: Presets) -> None:
    write_preset(presets, "one", "top_p: 0.9\n")
    assert presets.read("one").values == {**NEUTRAL, "top_p": 0.9}
    assert (NEUTRAL["temperature"], NEUTRAL["min_p"], NEUTRAL["top_k"]) == (1.0, 0.0, 0)


def test_presets_contain_no_lengths_seeds_stops_or_bans() -> None:
    excluded = PARAMETERS.keys() - NEUTRAL.keys()
    assert {"max_new_tokens", "seed", "truncation_length", "custom_stopping_strings", "ban_eos_token"} <= excluded
    assert {"grammar_string", "negative_prompt", "skip_special_tokens"} <= excluded
    assert {"temperature", "sampler_priority", "dry_sequence_breakers", "guidance_scale", "do_sample"} <= NEUTRAL.keys()


def test_a_preset_of_the_original_web_ui_is_read_and_its_unsupported_keys_are_listed(presets: Presets) -> None:
    text = "do_sample: false\npenalty_alpha: 0.6\ntop_k: 4\nsampler_priority:\n- top_k\n- temperature\nseed: 5\n"
    write_preset(presets, "Contrastive Search", text)
    preset = presets.read("Contrastive Search")
    assert preset.values == {**NEUTRAL, "do_sample": False, "top_k": 4, "sampler_priority": "top_k\ntemperature"}
    assert preset.ignored_keys == ("penalty_alpha", "seed")


@pytest.mark.parametrize("text", ["temperature: warm\n", "top_p: 7\n", "sampler_priority: [top_q]\n", "top_k: null\n"])
def test_an_invalid_value_is_named_with_its_file(presets: Presets, text: str) -> None:
    path = write_preset(presets, "bad", text)
    with pytest.raises(SettingsError) as error:
        presets.read("bad")
    assert error.value.file == str(path)
    for language in ("zh", "en"):
        assert text.partition(":")[0] in error.value.say(language)


def test_invalid_yaml_is_an_error_with_its_position(presets: Presets) -> None:
    write_preset(presets, "broken", "top_p: [1\n")
    with pytest.raises(SettingsError, match="line"):
        presets.read("broken")


def test_only_values_that_are_not_neutral_are_written(presets: Presets) -> None:
    assert presets.save("mine", resolve({"temperature": 0.5, "min_p": 0.0, "seed": 9, "max_new_tokens": 5})) is None
    assert (presets.folder / "mine.yaml").read_text(encoding="utf-8") == "temperature: 0.5\n"
    assert presets.read("mine").values == {**NEUTRAL, "temperature": 0.5}


def test_saving_keeps_comments_and_unsupported_keys(presets: Presets) -> None:
    path = write_preset(presets, "mine", "# my own\ntop_k: 5  # few\npenalty_alpha: 0.6\nmin_p: 0.1\n")
    presets.save("mine", {"top_k": 7, "typical_p": 0.5})
    assert path.read_text(encoding="utf-8") == "# my own\ntop_k: 7  # few\npenalty_alpha: 0.6\ntypical_p: 0.5\n"


def test_every_parameter_is_read_back_as_it_was_saved(presets: Presets, subtests: pytest.Subtests) -> None:
    for key in sorted(NEUTRAL):
        with subtests.test(parameter=key):
            option = PARAMETERS[key]
            value = option.minimum if option.minimum not in (None, NEUTRAL[key]) else option.maximum
            if isinstance(option.default, bool):
                value = not option.default
            elif option.choices:
                value = option.choices[-1]
            elif isinstance(option.default, str):
                value = option.example
            presets.save("mine", {key: value})  # type: ignore[dict-item]
            assert presets.read("mine").values == {**NEUTRAL, key: value}


def test_a_preset_with_only_neutral_values_is_valid(presets: Presets) -> None:
    presets.save("空", dict(NEUTRAL))
    assert presets.names() == ["空"]
    assert presets.read("空").values == NEUTRAL


def test_an_invalid_file_is_backed_up_when_a_preset_is_saved(presets: Presets) -> None:
    write_preset(presets, "mine", "top_p: [1\n")
    backup = presets.save("mine", {"top_k": 7})
    assert backup is not None
    assert backup.read_text() == "top_p: [1\n"
    assert presets.names() == ["mine"]


def test_an_invalid_value_is_not_saved(presets: Presets) -> None:
    with pytest.raises(OptionError):
        presets.save("mine", {"top_p": 7})
    assert presets.names() == []


def test_deleting_removes_the_lock_file_too(presets: Presets) -> None:
    presets.save("mine", {"top_k": 7})
    presets.delete("mine")
    assert presets.names() == [] and list(presets.folder.glob("*.lock")) == list(presets.folder.glob(".*.lock")) == []


def test_a_deleted_preset_can_be_restored_unless_there_is_another_one(presets: Presets) -> None:
    presets.save("mine", {"top_k": 7})
    presets.delete("mine")
    presets.restore("mine")
    assert presets.read("mine").values["top_k"] == 7
    with pytest.raises(PresetNotFound):
        presets.restore("mine")
    presets.delete("mine")
    presets.save("mine", {"top_k": 8})
    with pytest.raises(PresetNotFound):
        presets.restore("mine")
    assert presets.read("mine").values["top_k"] == 8


def test_a_missing_preset_is_an_error_with_the_nearest_name(presets: Presets) -> None:
    presets.save("Creative", {"top_k": 7})
    for operation in (presets.read, presets.delete):
        with pytest.raises(PresetNotFound) as error:
            operation("Creativ")
        assert error.value.nearest == "Creative"


INVALID_NAMES = [
    *("", ".", "..", "../x", "a/b", "a\\b", "/etc/x", "c:x", "a\0b", "a\nb", ".hidden", "x ", "x.", " x"),
    *("nul", "COM1.x", "what?", "你" * 67, "\ud800"),
]


def test_a_name_that_is_not_a_portable_file_name_is_rejected(
    presets: Presets, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    presets.folder.mkdir()
    (tmp_path / "x.yaml").write_text("top_k: 5\n")
    for name in INVALID_NAMES:
        with subtests.test(name=name):
            with pytest.raises(OptionError):
                presets.save(name, {"top_k": 7})
            for operation in (presets.read, presets.delete, presets.restore):
                with pytest.raises(PresetNotFound):
                    operation(name)
            assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.yaml"]


@pytest.mark.parametrize("name", ["min_p", "我的 预设 (2)", "v1.5", "a+b [c]", "naïve-1", "你" * 66])
def test_valid_names_in_any_script_are_accepted(presets: Presets, name: str) -> None:
    presets.save(name, {"top_k": 7})
    assert presets.names() == [name]
    assert presets.read(name).values["top_k"] == 7


SHIPPED = Presets(ROOT / "presets")


def test_the_expected_presets_are_shipped() -> None:
    assert {"min_p", "Deterministic", "Creative", "Precise", "Balanced", "Mirostat"} <= set(SHIPPED.names())


@pytest.mark.parametrize("name", ["min_p", "Deterministic", "Creative", "Precise", "Balanced", "Mirostat"])
def test_shipped_presets_are_valid_and_supported_by_every_loader(name: str) -> None:
    preset = SHIPPED.read(name)
    assert not preset.ignored_keys
    for loader in ("llama.cpp", "Transformers"):
        require_supported(changed(resolve(preset.values)), LOADERS[loader].samplers, loader)


def test_saving_over_a_preset_can_be_undone(presets: Presets) -> None:
    path = write_preset(presets, "mine", "# a comment\ntop_k: 4\npenalty_alpha: 0.6\n")
    before = path.read_bytes()
    presets.save("mine", {"top_k": 8})
    assert path.read_text() == "# a comment\ntop_k: 8\npenalty_alpha: 0.6\n"
    presets.restore("mine", overwritten=True)
    assert path.read_bytes() == before


def test_an_imported_preset_keeps_all_keys_and_replaces_no_other(presets: Presets) -> None:
    text = "# from elsewhere\ndynamic_temperature: true\npenalty_alpha: 0.6\nmystery: [1, 2]\n"
    assert presets.import_file("Big O.yaml", b"\xef\xbb\xbf" + text.encode()) == "Big O"
    assert presets.import_file("Big O.YML", b"top_k: 3\n") == "Big O (2)"
    assert presets.export("Big O") == text
    assert presets.read("Big O").ignored_keys == ("penalty_alpha", "mystery")


def test_an_import_that_is_no_preset_adds_nothing(presets: Presets, subtests: pytest.Subtests) -> None:
    for content in (b"top_k: [1\n", b"top_k: -3\n", b"just text", b"\xff\xfe", b"#" * 64_001):
        with subtests.test(content=content[:20]), pytest.raises(SettingsError) as error:
            presets.import_file("bad.yaml", content)
        assert "bad.yaml" in error.value.say("en")
    with pytest.raises(OptionError):
        presets.import_file("../bad.yaml", b"top_k: 3\n")
    assert presets.names() == []


def test_a_preset_that_is_no_text_is_not_exported(presets: Presets) -> None:
    write_preset(presets, "bad", "").write_bytes(b"top_k: 5 # \xff\n")
    with pytest.raises(SettingsError, match=r"bad\.yaml"):
        presets.export("bad")
