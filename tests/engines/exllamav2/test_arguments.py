"""Options of ExLlamav2 and ExLlamav2_HF become calls: none is ignored silently, and attention is always causal."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.engines.exllamav2.arguments import (
    ATTENTION,
    AUTOSPLIT,
    CACHE,
    CONFIG,
    CONFIG_JSON,
    GENERATOR,
    LOAD,
    NEGATIVE_CACHE,
    Environment,
    arguments,
    context_length,
    generator_arguments,
    incompatibility,
)
from modules.engines.exllamav2.environment import likely_environment
from modules.engines.exllamav2.notes import generator_notes, notes
from modules.engines.hf.arguments import TOKENIZER
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Value
from tests.engines.llamacpp.test_arguments import changed

LLAMA = {"max_position_embeddings": 2048, "rope_theta": 10000.0, "hidden_size": 64, "num_attention_heads": 2}
MIXTRAL = LLAMA | {"num_local_experts": 8}
BARE, FLASH = Environment(), Environment(flash=True, paged=True, xformers=True, gpus=1)
TURING = Environment(flash_unsupported=True, gpus=1)
ENVIRONMENTS = {
    "bare": BARE,
    "flash": FLASH,
    "xformers": Environment(xformers=True),
    "old flash": Environment(flash=True),
    "turing": TURING,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ExLlamav2_HF": (arguments, notes),
    "ExLlamav2": (generator_arguments, generator_notes),
}
KEYS = LOADERS["ExLlamav2"].options
DEFAULTS = {key: OPTIONS[key].default for key in KEYS}
LOADER = pytest.mark.parametrize("loader", FUNCTIONS)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_config(tmp_path, LLAMA)


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def calls_of(loader: str, path: Path, environment: Environment = BARE, **options: Value) -> dict[str, Any]:
    calls: dict[str, Any] = FUNCTIONS[loader][0](path, DEFAULTS | options, environment)
    return calls


def notes_of(loader: str, path: Path, environment: Environment = BARE, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in FUNCTIONS[loader][1](path, DEFAULTS | options, environment)}


@LOADER
@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, {"model_type": "mpt"}], ids=["llama", "mixtral", "mpt"])
def test_every_option_changes_the_calls_or_has_a_note(loader: str, config: dict[str, Any], tmp_path: Path) -> None:
    path = write_config(tmp_path, config)
    for key, (name, environment) in itertools.product(KEYS, ENVIRONMENTS.items()):
        options = {key: changed(OPTIONS[key])}
        texts = notes_of(loader, path, environment, **options)
        changed_calls = calls_of(loader, path, environment, **options)
        assert changed_calls != calls_of(loader, path, environment) or key in texts, (key, name)


@LOADER
def test_default_options_have_no_notes(loader: str, llama: Path) -> None:
    assert not any(notes_of(loader, llama, environment) for environment in ENVIRONMENTS.values())


@LOADER
def test_every_note_names_an_option_of_this_loader_in_both_languages(loader: str, llama: Path) -> None:
    for key, environment in itertools.product(KEYS, ENVIRONMENTS.values()):
        for note in FUNCTIONS[loader][1](llama, DEFAULTS | {key: changed(OPTIONS[key])}, environment):
            assert note.option in KEYS and set(note.text) == {"zh", "en"}


@LOADER
def test_sdpa_which_is_not_causal_is_off_wherever_it_would_be_used(loader: str, llama: Path) -> None:
    for environment, no_flash, no_xformers in itertools.product(ENVIRONMENTS.values(), [False, True], [False, True]):
        config = calls_of(loader, llama, environment, no_flash_attn=no_flash, no_xformers=no_xformers)[CONFIG]
        other_attention = (environment.flash and not no_flash) or (environment.xformers and not no_xformers)
        assert config.get("no_sdpa", False) is not other_attention, (environment, no_flash, no_xformers)


@LOADER
def test_pytorchs_causal_sdpa_is_used_instead_unless_no_sdpa_is_set(loader: str, llama: Path) -> None:
    assert calls_of(loader, llama, BARE)[ATTENTION] == {"attn_mask": "causal"}
    assert ATTENTION not in calls_of(loader, llama, BARE, no_sdpa=True)
    assert ATTENTION not in calls_of(loader, llama, FLASH)
    assert "flash-attention is used anyway" in notes_of(loader, llama, FLASH, no_sdpa=True)["no_sdpa"]


@LOADER
def test_flash_attention_is_off_on_gpus_that_are_too_old(loader: str, llama: Path) -> None:
    assert calls_of(loader, llama, TURING)[CONFIG]["no_flash_attn"] is True
    assert calls_of(loader, llama, TURING)[CONFIG]["no_sdpa"] is True
    assert "does not support the GPUs" in notes_of(loader, llama, TURING, no_flash_attn=True)["no_flash_attn"]


@pytest.mark.works("gpu", loader="ExLlamav2")
@pytest.mark.works("gpu", loader="ExLlamav2_HF")
def test_gpu_split_is_in_gigabytes_and_autosplit_takes_precedence(llama: Path) -> None:
    calls = calls_of("ExLlamav2_HF", llama, gpu_split="20,7.5")
    assert calls[LOAD] == {"gpu_split": [20.0, 7.5]} and calls[CACHE]["lazy"] is False
    calls = calls_of("ExLlamav2_HF", llama, gpu_split="20,7.5", autosplit=True)
    assert calls[AUTOSPLIT] == {} and LOAD not in calls and calls[CACHE]["lazy"] is True
    assert "gpu_split" in notes_of("ExLlamav2_HF", llama, gpu_split="20,7.5", autosplit=True)
    assert "More sizes than GPUs (1)" in notes_of("ExLlamav2_HF", llama, FLASH, gpu_split="20,7.5")["gpu_split"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "ExLlamaV2Cache"),
        ({"cache_8bit": True}, "ExLlamaV2Cache_Q8"),
        ({"cache_4bit": True}, "ExLlamaV2Cache_Q4"),
        ({"cache_4bit": True, "cache_8bit": True}, "ExLlamaV2Cache_Q4"),
    ],
)
@LOADER
def test_each_cache_option_has_its_class(loader: str, options: dict[str, Value], name: str, llama: Path) -> None:
    assert calls_of(loader, llama, **options)[CACHE]["class"] == name


def test_the_context_is_max_seq_len_or_the_models_own_with_rope_scaling(llama: Path) -> None:
    assert context_length(llama, DEFAULTS) == 2048
    assert context_length(llama, DEFAULTS | {"alpha_value": 2.5}) == 4096
    assert context_length(llama, DEFAULTS | {"compress_pos_emb": 4.0}) == 8192
    assert context_length(llama, DEFAULTS | {"max_seq_len": 1000, "alpha_value": 2.5}) == 1000
    assert "set it to 0" in notes_of("ExLlamav2", llama, max_seq_len=2048, alpha_value=2.5)["alpha_value"]
    assert not notes_of("ExLlamav2", llama, max_seq_len=4096, alpha_value=2.5)


def test_cfg_cache_adds_a_second_cache_or_doubles_a_paged_cache(llama: Path) -> None:
    calls = calls_of("ExLlamav2_HF", llama, cfg_cache=True, autosplit=True)
    assert calls[NEGATIVE_CACHE] == calls[CACHE]
    assert calls_of("ExLlamav2", llama, FLASH, cfg_cache=True)[CACHE]["max_seq_len"] == 4096
    assert calls_of("ExLlamav2", llama, BARE, cfg_cache=True)[CACHE]["max_seq_len"] == 2048
    assert "Use ExLlamav2_HF" in notes_of("ExLlamav2", llama, BARE, cfg_cache=True)["cfg_cache"]
    assert not notes_of("ExLlamav2", llama, FLASH, cfg_cache=True)


def test_the_cache_is_paged_only_with_a_flash_attention_that_supports_it(llama: Path) -> None:
    paged = {
        name: calls_of("ExLlamav2", llama, environment)[GENERATOR]["paged"]
        for name, environment in ENVIRONMENTS.items()
    }
    assert paged == {"bare": False, "flash": True, "xformers": False, "old flash": False, "turing": False}
    assert calls_of("ExLlamav2", llama, FLASH, no_flash_attn=True)[GENERATOR]["paged"] is False


@LOADER
def test_the_4_bit_cache_takes_precedence_with_a_note(loader: str, llama: Path) -> None:
    assert "4-bit cache takes precedence" in notes_of(loader, llama, cache_4bit=True, cache_8bit=True)["cache_8bit"]
    assert "cache_8bit" not in notes_of(loader, llama, cache_8bit=True)


def test_the_version_of_flash_attention_is_that_of_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for name, versions, paged in (("none", (), True), ("old", ("2.5.6",), False), ("new", ("2.10.0.post1",), True)):
        folder = tmp_path / name
        for package in ("flash_attn", "flash_attn_2_cuda"):
            (folder / package).mkdir(parents=True)
        for version in versions:
            facts = folder / f"flash_attn-{version}.dist-info"
            facts.mkdir()
            (facts / "METADATA").write_text(f"Name: flash-attn\nVersion: {version}\n")
        with subtests.test(name), monkeypatch.context() as path:
            path.setattr("sys.path", [str(folder)])
            found = likely_environment.__wrapped__()
            assert (found.flash, found.paged, found.xformers) == (True, paged, False)


def test_the_generator_rounds_its_cache_up_to_whole_pages(llama: Path) -> None:
    calls = calls_of("ExLlamav2", llama, FLASH, max_seq_len=300)
    assert calls[CACHE]["max_seq_len"] == calls[CONFIG]["max_seq_len"] == calls[GENERATOR]["max_chunk_size"] == 512
    assert context_length(llama, DEFAULTS | {"max_seq_len": 300}) == 300


def test_the_number_of_experts_is_limited_to_that_of_the_model(tmp_path: Path) -> None:
    path = write_config(tmp_path, MIXTRAL)
    assert calls_of("ExLlamav2", path, num_experts_per_token=3)[CONFIG]["num_experts_per_token"] == 3
    assert calls_of("ExLlamav2", path, num_experts_per_token=30)[CONFIG]["num_experts_per_token"] == 8


@LOADER
def test_exllamav2_reads_the_keys_of_transformers_5_under_their_earlier_names(loader: str, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512}
    rope = {"type": "yarn", "rope_theta": 5e5, **yarn}
    path = write_config(tmp_path, {"max_position_embeddings": 2048, "rope_parameters": rope})
    assert calls_of(loader, path)[CONFIG_JSON] == {"rope_theta": 5e5, "rope_scaling": yarn}
    assert CONFIG_JSON not in calls_of(loader, write_config(tmp_path, LLAMA))


def test_exllamav2_finds_keys_of_the_language_model_that_it_expects_at_the_top(tmp_path: Path) -> None:
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 2e4}}
    layers = ["sliding_attention", "full_attention"] * 2
    text = {"model_type": "gemma3_text", "sliding_window": 16, "layer_types": layers, "rope_parameters": rope}
    path = write_config(tmp_path, {"model_type": "gemma3", "text_config": {"max_position_embeddings": 64, **text}})
    calls = calls_of("ExLlamav2", path)
    assert calls[CONFIG_JSON]["sliding_window_pattern"] == 2
    assert calls[CONFIG_JSON]["text_config"]["rope_theta"] == 1e6
    assert calls[CONFIG]["rotary_embedding_base_alt"] == 2e4


def test_exllamav2_gets_one_name_for_the_kind_of_rope(tmp_path: Path) -> None:
    scaling = {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]}
    changes = calls_of("ExLlamav2", write_config(tmp_path, LLAMA | {"rope_scaling": scaling}))[CONFIG_JSON]
    assert changes == {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}


def test_what_exllamav2_has_no_key_for_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e6}})
    words = incompatibility(path)
    assert words is not None
    assert "rope_parameters.rope_type=proportional, which ExLlamaV2 does not support" in words["en"]
    assert incompatibility(write_config(tmp_path, LLAMA)) is None


@LOADER
def test_remote_code_of_a_tokenizer_runs_only_if_it_is_trusted(loader: str, llama: Path) -> None:
    assert calls_of(loader, llama)[TOKENIZER]["trust_remote_code"] is False
    assert calls_of(loader, llama, trust_remote_code=True)[TOKENIZER]["trust_remote_code"] is True
    (llama / "tok.py").write_text("")
    assert "tok.py (sha256 e3b0c44298fc)" in notes_of(loader, llama, trust_remote_code=True)["trust_remote_code"]


@pytest.mark.parametrize("module", ["exllamav2", "exllamav2_hf"])
def test_explain_needs_neither_torch_nor_exllamav2(module: str, llama: Path) -> None:
    program = (
        f"import json, sys; from pathlib import Path; from modules.engines.{module}.loader import LOADER;"
        "explained = LOADER.explain(Path(sys.argv[1]), json.loads(sys.argv[2]));"
        "print('torch' in sys.modules, 'exllamav2' in sys.modules, *explained['calls'])"
    )
    command = [sys.executable, "-c", program, str(llama), json.dumps(DEFAULTS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.split()[:3] == ["False", "False", CONFIG], run.stderr
