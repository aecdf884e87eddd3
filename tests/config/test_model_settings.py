"""Settings saved per model: they are read back unchanged, and never for another model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modules.config.model_settings import ModelSettings
from modules.core.errors import SettingsError
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Option, Value

LLAMA = LOADERS["llama.cpp"]
CHARACTERS = "abcXYZ0189 .-_+$()[]{}#:,'\"!&*?|<>=%@`~\\^/中文模型é😀\N{NO-BREAK SPACE}"


def settings_in(folder: Path, *models: str) -> ModelSettings:
    return ModelSettings(folder, lambda name: name in models)


def save(settings: ModelSettings, name: str, loader: str = "llama.cpp", **saved: Value) -> None:
    settings.save(name, loader, saved, LOADERS[loader].options)


def random_name(rng: random.Random) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 24))).strip(" /") or "x"


def random_value(option: Option, rng: random.Random) -> Value:
    """Return a random valid value."""
    if option.choices:
        return rng.choice(option.choices)
    if isinstance(option.default, bool):
        return rng.random() < 0.5
    if isinstance(option.default, str):
        return option.example or "on"
    low = option.least or (option.minimum if option.minimum is not None else -1000)
    number = rng.uniform(low, min(option.maximum or 1e6, 1e6))
    return option.parse(int(number) if isinstance(option.default, int) else number)


@pytest.mark.parametrize("seed", range(2))
def test_settings_saved_for_models_of_any_name_survive_a_restart_and_do_not_leak(tmp_path: Path, seed: int) -> None:
    """Names, loaders, values and the order of saving are random."""
    rng = random.Random(seed)
    names = list({random_name(rng) for _ in range(12)})
    # The original web UI's patterns would confuse these names with others.
    names += [f"{names[0]}$", names[1].upper() + "X", names[1].lower() + "X"]
    latest: dict[str, tuple[str, dict[str, Value]]] = {}
    for _ in range(30):
        name, loader = rng.choice(names), rng.choice(list(LOADERS.values()))
        settings = settings_in(tmp_path, *names)  # a new object, as after a restart
        before = {key: raw for key, raw in settings.get(name).items() if key != "loader"}
        assert before == latest.get(name, ("", {}))[1]
        chosen = {key: random_value(OPTIONS[key], rng) for key in loader.options if rng.random() < 0.3}
        settings.save(name, loader.name, chosen, loader.options)
        kept = {key: value for key, value in before.items() if key not in loader.options}
        latest[name] = (loader.name, kept | chosen)
    for name in names:
        loader_name, chosen = latest.get(name, ("", {}))
        entry = dict(settings_in(tmp_path, *names).get(name))
        assert entry.pop("loader", "") == loader_name
        assert entry == chosen
        if loader_name:
            resolved = resolve(LOADERS[loader_name], model={}, saved=entry, flags={}, form={})
            assert {key: setting.value for key, setting in resolved.items() if setting.source == "saved"} == {
                key: value for key, value in chosen.items() if key in LOADERS[loader_name].options
            }


def test_an_entry_of_the_original_web_ui_is_read_and_converted_on_saving(tmp_path: Path) -> None:
    file = tmp_path / "config-user.yaml"
    file.write_text(
        "other$:\n  n_ctx: 1\n"
        "a+b [1].gguf$:  # mine\n  loader: llama.cpp\n  n_ctx: 4096\n  wbits: None\n  groupsize: 'None'\n"
        "  gpu_memory_0: 8000\n  gpu_memory_1: 0\n  cpu_memory: 0\n  instruction_template: Alpaca\n"
    )
    settings = settings_in(tmp_path)
    expected = {"loader": "llama.cpp", "n_ctx": 4096, "gpu_memory": "8000MiB 0MiB", "instruction_template": "Alpaca"}
    assert settings.get("a+b [1].gguf") == expected
    assert settings.get("a+b [1]xgguf") == {}
    save(settings, "a+b [1].gguf", n_ctx=512)
    assert "a+b [1].gguf$" not in file.read_text()
    assert settings.get("a+b [1].gguf") == expected | {"n_ctx": 512}
    assert settings.get("other") == {"n_ctx": 1}


def test_memory_sizes_of_the_original_web_ui_are_converted(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text("m$: {gpu_memory_0: 8000, cpu_memory: 4000, wbits: '4'}\n")
    saved = settings_in(tmp_path).get("m")
    values = option_values(resolve(LOADERS["AutoGPTQ"], model={}, saved=saved, flags={}, form={}))
    assert (values["gpu_memory"], values["cpu_memory"], values["wbits"]) == ("8000MiB", "4000MiB", 4)


def test_an_entry_of_todays_original_is_read_by_its_new_names(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text(
        "m.gguf$: {loader: llama.cpp, gpu_layers: 33, ctx_size: 8192, batch_size: 1024, cache_type: q8_0, ik: true}\n"
        "auto.gguf$: {gpu_layers: -1, ctx_size: 0, cache_type: fp16, no_kv_offload: true}\n"
        "both$: {ctx_size: 8192, n_ctx: 4096, attn_implementation: eager}\n"
    )
    settings = settings_in(tmp_path)
    expected = {"n_gpu_layers": 33, "n_ctx": 8192, "max_seq_len": 8192, "n_batch": 1024, "cache_8bit": True}
    assert settings.get("m.gguf") == {"loader": "llama.cpp", "ik": True, **expected}
    assert settings.get("auto.gguf") == {"cache_type": "fp16", "no_offload_kqv": True}
    assert settings.get("both") == {"n_ctx": 4096, "max_seq_len": 8192, "use_eager_attention": True}


def test_a_list_where_todays_original_has_a_word_does_not_hide_the_other_settings(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text("m: {n_ctx: 4096, cache_type: [q8_0], attn_implementation: {a: 1}}\n")
    assert settings_in(tmp_path).get("m")["n_ctx"] == 4096


def test_a_model_whose_name_ends_with_a_dollar_sign_keeps_its_own_entry(tmp_path: Path) -> None:
    save(settings_in(tmp_path, "m", "m$"), "m$", n_ctx=1)
    assert settings_in(tmp_path, "m", "m$").get("m") == {}
    assert settings_in(tmp_path, "m").get("m")["n_ctx"] == 1


def test_saving_removes_omitted_keys_of_the_loader_and_keeps_others(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    save(settings, "m", n_ctx=512, mlock=True)
    save(settings, "m", "Transformers", bf16=True)
    save(settings, "m", threads=3)
    assert settings.get("m") == {"loader": "llama.cpp", "bf16": True, "threads": 3}


def test_an_entry_that_is_an_alias_of_another_is_saved_separately(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text("a: &x {n_ctx: 2048}\nb: *x\n")
    save(settings_in(tmp_path), "b", n_ctx=99)
    assert settings_in(tmp_path).get("a") == {"n_ctx": 2048}
    assert settings_in(tmp_path).get("b")["n_ctx"] == 99


def test_an_invalid_entry_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text("m: [1, 2]\n")
    with pytest.raises(SettingsError, match="'m'"):
        save(settings_in(tmp_path), "m", n_ctx=1)
    assert (tmp_path / "config-user.yaml").read_text() == "m: [1, 2]\n"


def test_an_invalid_entry_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "config-user.yaml").write_text("m: 3\nother: {n_ctx: 1}\n")
    with pytest.raises(SettingsError, match="'m'"):
        settings_in(tmp_path).get("m")
    assert settings_in(tmp_path).get("other") == {"n_ctx": 1}


def test_a_folder_that_cannot_be_created_is_an_error_on_saving(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError):
        save(settings_in(tmp_path / "file"), "m", n_ctx=1)
