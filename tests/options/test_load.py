"""The tables of load options: they match the specification, and every option is consistent."""

from __future__ import annotations

import re

import pytest

from modules.core.errors import OptionError
from modules.loaders.registry import LOADERS, Loader
from modules.options.load import OPTIONS
from modules.options.option import FlagParser

LLAMACPP = """n_gpu_layers n_ctx tensor_split n_batch threads threads_batch tensorcores streaming_llm cpu no_mul_mat_q
    no_mmap mlock numa"""
EXLLAMAV2 = "gpu_split max_seq_len cfg_cache no_flash_attn cache_8bit cache_4bit"
AUTOGPTQ = "wbits groupsize triton no_inject_fused_attention no_inject_fused_mlp no_use_cuda_fp16 desc_act"

SPECIFIED = {
    "Transformers": """gpu_memory cpu_memory compute_dtype quant_type alpha_value rope_freq_base compress_pos_emb cpu
        load_in_8bit bf16 auto_devices disk load_in_4bit use_double_quant trust_remote_code no_use_fast
        use_flash_attention_2 disable_exllama""",
    "ExLlamav2_HF": EXLLAMAV2,
    "ExLlamav2": EXLLAMAV2,
    "AutoGPTQ": AUTOGPTQ,
    "llama.cpp": LLAMACPP,
    "llamacpp_HF": f"{LLAMACPP} logits_all",
    "AutoAWQ": "no_inject_fused_attention",
    "vLLM": """tensor_parallel_size pipeline_parallel_size data_parallel_size distributed_executor_backend nnodes
        node_rank master_addr master_port max_model_len gpu_memory_utilization kv_cache_gib kv_cache_dtype quantization
        max_num_seqs enforce_eager enable_lora max_loras max_lora_rank trust_remote_code vllm_program engine_args""",
    "Remote": """server_url server_model server_kind server_prompts server_key_env server_ca server_streams
        server_timeout resume_stream n_ctx""",
}
OTHER_ORIGINAL_OPTIONS = {
    "Transformers": "disable_exllamav2 use_eager_attention",
    "ExLlamav2_HF": """autosplit num_experts_per_token alpha_value compress_pos_emb trust_remote_code no_use_fast
        no_xformers no_sdpa""",
    "AutoGPTQ": """gpu_memory cpu_memory cpu disk auto_devices trust_remote_code no_use_fast disable_exllama
        disable_exllamav2""",
    "llama.cpp": """alpha_value rope_freq_base compress_pos_emb no_offload_kqv row_split flash_attn
        attention_sink_size cache_8bit cache_4bit""",
    "llamacpp_HF": """alpha_value rope_freq_base compress_pos_emb no_offload_kqv row_split flash_attn
        attention_sink_size cache_8bit cache_4bit cfg_cache trust_remote_code no_use_fast""",
    "AutoAWQ": "gpu_memory cpu_memory auto_devices trust_remote_code no_use_fast max_seq_len",
}
ORIGINAL_FLAGS = """cpu-memory gpu-memory load-in-8bit bf16 cpu disk auto-devices load-in-4bit use_double_quant
    quant_type compute_dtype trust-remote-code no_use_fast use_flash_attention_2 alpha_value rope_freq_base
    compress_pos_emb disable_exllama disable_exllamav2 n_ctx n-gpu-layers tensor_split n_batch threads threads-batch
    no-mmap mlock no_mul_mat_q numa no_offload_kqv row_split tensorcores flash-attn streaming-llm
    attention-sink-size cfg-cache logits_all gpu-split max_seq_len no_flash_attn num_experts_per_token cache_8bit
    cache_4bit autosplit triton no_inject_fused_mlp no_use_cuda_fp16 wbits groupsize desc_act
    no_inject_fused_attention use_eager_attention no_xformers no_sdpa"""

every_loader = pytest.mark.parametrize("loader", LOADERS.values(), ids=lambda loader: loader.name)


@every_loader
def test_every_specified_option_belongs_to_its_loader(loader: Loader) -> None:
    assert set(SPECIFIED[loader.name].split()) <= set(loader.options)


@pytest.mark.parametrize("name", OTHER_ORIGINAL_OPTIONS)
def test_every_other_option_of_the_original_web_ui_is_kept(name: str) -> None:
    assert set(OTHER_ORIGINAL_OPTIONS[name].split()) <= set(LOADERS[name].options)


def test_exllamav2_has_the_options_of_exllamav2_hf() -> None:
    assert LOADERS["ExLlamav2"].options == LOADERS["ExLlamav2_HF"].options


OWN = {"parallel", "mmproj", "kv_unified", "model_draft", "draft_max", "gpu_layers_draft", "ctx_size_draft"}
"""The options that only llama.cpp has, and that the original web UI of that time did not have."""

ELSEWHERE = """rpc server-url server-model server-kind server-prompts server-key-env server-ca server-streams
    server-timeout resume-stream"""
"""Flags for what other machines do, which the original web UI does not have."""


def test_llamacpp_hf_has_every_option_of_llama_cpp_except_these() -> None:
    assert set(LOADERS["llama.cpp"].options) - set(LOADERS["llamacpp_HF"].options) == OWN


def test_only_llama_cpp_has_these_options() -> None:
    assert [loader.name for loader in LOADERS.values() if OWN & set(loader.options)] == ["llama.cpp"]


@every_loader
def test_a_loader_names_known_options_once_each(loader: Loader) -> None:
    assert set(loader.options) <= set(OPTIONS)
    assert len(set(loader.options)) == len(loader.options)


def test_every_option_belongs_to_a_loader() -> None:
    assert set(OPTIONS) == {key for loader in LOADERS.values() for key in loader.options}


def test_every_flag_is_spelled_as_in_the_original_web_ui() -> None:
    later = {
        *(OPTIONS[key].flag for key in OWN),
        *ELSEWHERE.split(),
        *(OPTIONS[key].flag for key in SPECIFIED["vLLM"].split()),
    }
    assert {option.flag for option in OPTIONS.values()} == {*ORIGINAL_FLAGS.split(), *later}


def test_flags_are_unique_even_if_dashes_equal_underscores() -> None:
    folded = [option.flag.replace("-", "_") for option in OPTIONS.values()]
    assert len(set(folded)) == len(folded)


def test_a_key_is_its_flag_with_underscores_as_in_old_settings_files(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            assert option.key == option.flag.replace("-", "_")


def test_every_option_has_a_label_and_help_in_both_languages(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            assert set(option.label) == set(option.help) == {"en", "zh"}
            assert all(option.label.values())
            assert option.help["en"] != option.help["zh"]
            assert re.search("[\u4e00-\u9fff]", option.help["zh"])
            assert not re.search("[\u3000-\u9fff\uff00-\uffef]", option.help["en"] + option.label["en"])


def test_the_help_fits_under_a_widget(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            assert 20 <= len(option.help["en"]) <= 112
            assert 10 <= len(option.help["zh"]) <= 60


def test_a_default_parses_to_itself_as_value_and_as_text(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            for raw in (option.default, str(option.default)):
                value = option.parse(raw)
                assert value == option.default
                assert type(value) is type(option.default)


def test_both_ends_of_every_range_are_valid(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            for end in (option.minimum, option.maximum):
                assert end is None or option.parse(end) == end


@pytest.mark.parametrize("key", ["n_ctx", "max_seq_len"])
def test_a_context_too_short_for_any_question_is_refused_with_its_bounds(key: str) -> None:
    assert [OPTIONS[key].parse(length) for length in (0, 16, "16")] == [0, 16, 16]
    for length in (1, 15, "8", -1):
        with pytest.raises(OptionError) as refused:
            OPTIONS[key].parse(length)
        assert refused.value.say("en").endswith("expected 0, or a whole number from 16 to 16777216.")
        assert refused.value.say("zh").endswith("应为 0，或 16 到 16777216 之间的整数。")


def test_the_example_of_a_text_option_matches_its_pattern(subtests: pytest.Subtests) -> None:
    with_pattern = [option for option in OPTIONS.values() if option.pattern]
    assert with_pattern
    for option in with_pattern:
        with subtests.test(option.key):
            assert option.parse(option.example) == option.example


def test_every_option_has_a_group_of_the_form(subtests: pytest.Subtests) -> None:
    for option in OPTIONS.values():
        with subtests.test(option.key):
            assert option.group in {"common", "memory", "context", "advanced", "obsolete"}


@every_loader
def test_common_options_are_few_and_come_first(loader: Loader) -> None:
    groups = [OPTIONS[key].group for key in loader.options]
    assert 2 <= groups.count("common") <= 5
    assert set(groups[: groups.count("common")]) == {"common"}


def test_gpu_memory_accepts_sizes_in_all_usual_spellings(subtests: pytest.Subtests) -> None:
    for raw in ("10", "9.5GiB", "8000MiB", "10 8", "10GiB,8gib", "9.5GiB, 8000MiB", 10, "0"):
        with subtests.test(raw=raw):
            assert OPTIONS["gpu_memory"].parse(raw) == str(raw)


def test_an_invalid_size_is_refused(subtests: pytest.Subtests) -> None:
    for raw in ("much", "-1", "10 GiB", "10G", "10TB", "10,,8", "1.GiB", "10;8"):
        for key in ("gpu_memory", "cpu_memory"):
            with subtests.test(option=key, raw=raw), pytest.raises(OptionError):
                OPTIONS[key].parse(raw)


def test_cpu_memory_is_a_single_size() -> None:
    assert OPTIONS["cpu_memory"].parse("16GiB") == "16GiB"
    with pytest.raises(OptionError):
        OPTIONS["cpu_memory"].parse("16GiB 8GiB")


@pytest.mark.parametrize("key", ["tensor_split", "gpu_split"])
def test_a_split_is_numbers_with_commas(key: str) -> None:
    for raw in ("30,70", "20, 7", "1.5,2", "20"):
        assert OPTIONS[key].parse(raw) == raw
    for raw in ("30 70", "30,", ",", "30;70", "a,b"):
        with pytest.raises(OptionError):
            OPTIONS[key].parse(raw)


def test_extreme_values_of_published_models_are_valid() -> None:
    for key, value in {"n_ctx": 10_485_760, "rope_freq_base": 11158839.92, "compress_pos_emb": 25.0}.items():
        assert OPTIONS[key].parse(value) == value


def test_compress_pos_emb_accepts_fractions_on_the_command_line() -> None:
    assert FlagParser(OPTIONS.values(), "").parse(["--compress-pos-emb", "2.5"]) == {"compress_pos_emb": 2.5}


def test_flash_attention_is_on_by_default_and_can_be_turned_off_by_a_flag() -> None:
    assert OPTIONS["flash_attn"].default is True
    assert FlagParser(OPTIONS.values(), "").parse(["--flash_attn=false"]) == {"flash_attn": False}


def test_the_command_line_prints_the_help_of_all_options() -> None:
    assert "--n-gpu-layers" in FlagParser(OPTIONS.values(), "").format_help()
