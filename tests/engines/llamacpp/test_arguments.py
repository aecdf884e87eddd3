"""Load options become calls of llama.cpp: no option is ignored silently, and the library accepts all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.engines.llamacpp import arguments as ours
from modules.engines.llamacpp.arguments import ADD_NODES, Build, arguments
from modules.engines.llamacpp.draft_arguments import draft_path
from modules.engines.llamacpp.notes import notes
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Option, Value
from modules.system import cpu_memory, thread_count

CPU_BUILD = Build(gpu_offload=False, max_devices=16)
GPU_BUILD = Build(gpu_offload=True, max_devices=4)
UNUSED_AMX = Build(gpu_offload=False, max_devices=1, repacks=False)
BUILDS = [CPU_BUILD, GPU_BUILD, UNUSED_AMX]
PATH = Path("/models/model.gguf")
KEYS = LOADERS["llama.cpp"].options
MODEL, CONTEXT = "llama_model_load_from_file", "llama_init_from_model"

DEFAULTS = {key: OPTIONS[key].default for key in KEYS}


def calls(build: Build = CPU_BUILD, **options: Value) -> dict[str, Any]:
    return arguments(PATH, DEFAULTS | options, build)


def noted(build: Build = CPU_BUILD, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(Path("model"), DEFAULTS | options, build)}


def changed(option: Option) -> Value:
    """Return a value of `option` that is not its default."""
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, str):
        return option.choices[-1] if option.choices else option.example
    larger = option.default + max(3, option.least or 0)
    return option.parse(larger if option.maximum is None or larger <= option.maximum else option.minimum)


def test_every_option_changes_the_calls_or_has_a_note(subtests: pytest.Subtests) -> None:
    for name, build in zip(("cpu", "gpu", "amx"), BUILDS, strict=True):
        unchanged = calls(build)
        for key in KEYS:
            with subtests.test(build=name, option=key):
                options = {key: changed(OPTIONS[key])}
                assert calls(build, **options) != unchanged or key in noted(build, **options)


@pytest.mark.parametrize("build", BUILDS[:2], ids=["cpu", "gpu"])
def test_default_options_have_no_notes(build: Build) -> None:
    assert not noted(build)


def test_every_note_names_an_option_of_this_loader_in_both_languages(subtests: pytest.Subtests) -> None:
    for key in KEYS:
        with subtests.test(option=key):
            for build in BUILDS:
                for note in notes(Path("model"), DEFAULTS | {key: changed(OPTIONS[key])}, build):
                    assert note.option in KEYS
                    assert set(note.text) == {"zh", "en"}
                    assert all(note.text.values())


def all_calls() -> list[dict[str, Any]]:
    single = [{key: changed(OPTIONS[key])} for key in KEYS]
    combined = {key: changed(OPTIONS[key]) for key in KEYS}
    made = [calls(build, **options) for build in BUILDS for options in [{}, *single, combined]]
    drafts = [large.pop("draft") for large in made if "draft" in large]
    assert all(draft.pop("common_params_speculative") for draft in drafts), "no call of the library: a limit of ours"
    return made + drafts


def test_every_field_exists_in_the_structs_of_the_library() -> None:
    """ctypes accepts any attribute, even a misspelled one, and ignores it."""
    model = {name for name, *_ in llama_cpp.llama_model_params._fields_} | {"path_model"}
    context = {name for name, *_ in llama_cpp.llama_context_params._fields_}
    for made in all_calls():
        assert set(made[MODEL]) <= model
        assert set(made[CONTEXT]) <= context
        assert set(made) <= {MODEL, CONTEXT, "llama_numa_init", "llama_memory_seq_add", "mtmd_init_from_file"}


def test_every_value_has_the_type_of_its_field() -> None:
    special = {"path_model", "tensor_split", "devices"}
    for made in all_calls():
        for call, struct in ((MODEL, llama_cpp.llama_model_params()), (CONTEXT, llama_cpp.llama_context_params())):
            for name, value in made[call].items():
                if name not in special:
                    setattr(struct, name, value)  # raises TypeError for another type
                    assert getattr(struct, name) == pytest.approx(value)


def test_the_vision_part_is_loaded_unless_the_user_wants_text_only() -> None:
    assert "mtmd_init_from_file" not in calls() | calls(mmproj="none") | calls(mmproj="")
    made = calls(mmproj="mmproj-F16.gguf", threads_batch=3)
    assert made["mtmd_init_from_file"] == {"mmproj_fname": "mmproj-F16.gguf", "use_gpu": False, "n_threads": 3}
    assert made[CONTEXT]["n_ubatch"] == made[CONTEXT]["n_batch"], "a picture may have to be computed at once"


def test_only_streaming_llm_shifts_the_cache_and_keeps_attention_sinks() -> None:
    assert "llama_memory_seq_add" not in calls(attention_sink_size=8)
    assert calls(streaming_llm=True, attention_sink_size=8)["llama_memory_seq_add"] == {"attention_sink_size": 8}


def test_the_default_sink_size_is_that_of_the_option() -> None:
    assert OPTIONS["attention_sink_size"].default == ours.DEFAULT_SINK_SIZE


def test_every_call_exists_in_the_library() -> None:
    for functions in all_calls():
        assert all(hasattr(llama_cpp, name) or name.startswith("mtmd_") for name in functions)


def test_enum_values_are_those_of_the_library() -> None:
    assert ours.CACHE_F16 == llama_cpp.GGML_TYPE_F16
    assert ours.CACHE_Q8_0 == llama_cpp.GGML_TYPE_Q8_0
    assert ours.CACHE_Q4_0 == llama_cpp.GGML_TYPE_Q4_0
    assert ours.SPLIT_LAYERS == llama_cpp.LLAMA_SPLIT_MODE_LAYER
    assert ours.SPLIT_ROWS == llama_cpp.LLAMA_SPLIT_MODE_ROW
    assert ours.NUMA_DISTRIBUTE == llama_cpp.GGML_NUMA_STRATEGY_DISTRIBUTE
    assert (int(True), int(False)) == (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    )


def test_load_modes_are_those_of_the_library() -> None:
    assert ours.LOAD_MODES == {
        (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
        (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }


FIELDS: list[tuple[dict[str, Value], str, dict[str, Any]]] = [
    ({"n_ctx": 4096}, CONTEXT, {"n_ctx": 4096}),
    ({"n_batch": 32}, CONTEXT, {"n_batch": 32, "n_ubatch": 32}),
    ({"n_batch": 2048}, CONTEXT, {"n_batch": 2048, "n_ubatch": 256}),
    (
        {"n_ctx": 512, "parallel": 8, "kv_unified": "off"},
        CONTEXT,
        {"n_ctx": 4096, "n_seq_max": 8, "kv_unified": False},
    ),
    ({"n_ctx": 512, "parallel": 8, "kv_unified": "auto"}, CONTEXT, {"n_ctx": 512, "kv_unified": True}),
    ({"n_ctx": 512, "parallel": 1, "kv_unified": "off"}, CONTEXT, {"n_ctx": 512, "kv_unified": True}),
    ({"n_batch": 2, "parallel": 8}, CONTEXT, {"n_batch": 9, "n_seq_max": 8, "kv_unified": True}),
    ({"threads": 3}, CONTEXT, {"n_threads": 3}),
    ({"threads_batch": 5}, CONTEXT, {"n_threads_batch": 5}),
    ({"flash_attn": False}, CONTEXT, {"flash_attn_type": 0}),
    ({"cache_8bit": True}, CONTEXT, {"type_k": 8, "type_v": 8, "flash_attn_type": 1}),
    ({"cache_4bit": True, "flash_attn": False}, CONTEXT, {"type_k": 2, "type_v": 2, "flash_attn_type": 1}),
    ({"cache_4bit": True, "cache_8bit": True}, CONTEXT, {"type_k": 2, "type_v": 2}),
    ({"no_offload_kqv": True}, CONTEXT, {"offload_kqv": False}),
    ({"rope_freq_base": 11158839.92}, CONTEXT, {"rope_freq_base": 11158839.92}),
    ({"compress_pos_emb": 4.0}, CONTEXT, {"rope_freq_scale": 0.25}),
    ({"n_gpu_layers": 20}, MODEL, {"n_gpu_layers": 20}),
    ({"n_gpu_layers": -1}, MODEL, {"n_gpu_layers": -1}),
    ({"n_gpu_layers": 256}, MODEL, {"n_gpu_layers": -1}),
    ({"n_gpu_layers": 20, "cpu": True}, MODEL, {"n_gpu_layers": 0, "devices": []}),
    ({"tensor_split": "30,70"}, MODEL, {"tensor_split": [30.0, 70.0]}),
    ({"row_split": True}, MODEL, {"split_mode": 2}),
    ({"no_mmap": True}, MODEL, {"load_mode": 0}),
    ({"mlock": True}, MODEL, {"load_mode": 3}),
    ({"mlock": True, "no_mmap": True}, MODEL, {"load_mode": 2}),
    ({"numa": True}, "llama_numa_init", {"numa": 1}),
    ({}, MODEL, {"path_model": "/models/model.gguf", "n_gpu_layers": 0, "load_mode": 1, "split_mode": 1}),
]


@pytest.mark.works("gpu", loader="llama.cpp")
def test_options_set_the_fields_of_the_same_meaning(subtests: pytest.Subtests) -> None:
    for options, call, expected in FIELDS:
        with subtests.test(options=options, call=call):
            made = calls(GPU_BUILD, **options)[call]
            assert {name: made[name] for name in expected} == expected


def test_automatic_threads_match_the_machines_cores() -> None:
    made = calls()[CONTEXT]
    assert (made["n_threads"], made["n_threads_batch"]) == (
        thread_count.default_threads(),
        cpu_memory.logical_cores(),
    )


def test_alpha_raises_the_given_frequency_base_or_the_default() -> None:
    def base(**options: Value) -> float:
        return float(calls(**options)[CONTEXT]["rope_freq_base"])

    assert base(alpha_value=2.0) == pytest.approx(10000 * 2 ** (64 / 63))
    assert base(alpha_value=2.0, rope_freq_base=500000.0) == pytest.approx(500000 * 2 ** (64 / 63))


def test_rope_parameters_are_those_of_the_model_by_default() -> None:
    assert not {"rope_freq_base", "rope_freq_scale"} & set(calls()[CONTEXT])


def test_a_build_whose_amx_does_not_work_does_without_repacked_weights_and_says_so() -> None:
    assert calls(UNUSED_AMX)[MODEL]["use_extra_bufts"] is False
    assert "compile it anew" in noted(UNUSED_AMX)["threads_batch"]
    assert "use_extra_bufts" not in calls()[MODEL] and "threads_batch" not in noted()


def test_gpu_options_have_a_note_only_without_gpu_support() -> None:
    gpu_options: dict[str, Value] = {
        "n_gpu_layers": 5,
        "tensor_split": "30,70",
        "row_split": True,
        "no_offload_kqv": True,
    }
    assert set(gpu_options) <= set(noted(CPU_BUILD, **gpu_options))
    assert not set(gpu_options) & set(noted(GPU_BUILD, **gpu_options))


def test_a_tensor_split_for_too_many_gpus_has_a_note() -> None:
    assert "first 4 values" in noted(GPU_BUILD, tensor_split="1,1,1,1,1")["tensor_split"]
    assert "tensor_split" not in noted(GPU_BUILD, tensor_split="1,1,1,1")


def test_flash_attention_turned_on_for_a_quantized_cache_has_a_note() -> None:
    for cache in ("cache_8bit", "cache_4bit"):
        assert "Turned on" in noted(**{cache: True, "flash_attn": False})["flash_attn"]
        assert "flash_attn" not in noted(**{cache: True})


def test_the_4_bit_cache_takes_precedence_with_a_note() -> None:
    assert "cache_8bit" in noted(cache_4bit=True, cache_8bit=True)


def test_arguments_do_not_import_the_library() -> None:
    program = (
        "import sys, modules.engines.llamacpp.arguments; print('llama_cpp' in sys.modules, 'numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "False False\n", run.stderr


# -- other machines ----------------------------------------------------------------------------------------------------


def test_nodes_are_added_before_the_load_and_take_layers_of_any_build() -> None:
    nodes = "192.168.1.20:50052, box.local:50053"
    made = calls(CPU_BUILD, rpc=nodes, n_gpu_layers=-1)
    assert list(made)[:3] == ["ggml_backend_load", ADD_NODES, MODEL]
    assert made[ADD_NODES] == {"endpoint": ["192.168.1.20:50052", "box.local:50053"]}
    assert made[CONTEXT]["n_ubatch"] == ours.GPU_UBATCH, "as for a GPU, though this build supports none"
    notes_on = noted(CPU_BUILD, rpc=nodes, n_gpu_layers=-1)
    assert "unencrypted" in notes_on["rpc"] and "n_gpu_layers" not in notes_on


def test_without_gpu_layers_no_node_is_connected_to_and_a_note_says_so() -> None:
    for options in ({"n_gpu_layers": 0}, {"n_gpu_layers": -1, "cpu": True}):
        assert ADD_NODES not in calls(rpc="a:1", **options)
        assert "n_gpu_layers is 0" in noted(rpc="a:1", **options)["rpc"]


def test_nodes_get_whole_layers_as_llama_cpp_refuses_to_load_otherwise() -> None:
    options = {"row_split": True, "n_gpu_layers": -1}
    assert calls(GPU_BUILD, **options)[MODEL]["split_mode"] == ours.SPLIT_ROWS
    assert calls(GPU_BUILD, rpc="a:1", **options)[MODEL]["split_mode"] == ours.SPLIT_LAYERS
    assert "whole layers" in noted(GPU_BUILD, rpc="a:1", **options)["row_split"]


def test_the_vision_part_stays_on_this_machine() -> None:
    options = {"mmproj": "mmproj.gguf", "n_gpu_layers": -1}
    assert calls(GPU_BUILD, **options)["mtmd_init_from_file"]["use_gpu"] is True
    assert calls(GPU_BUILD, rpc="a:1", **options)["mtmd_init_from_file"]["use_gpu"] is False


def test_impossible_nodes_are_refused(subtests: pytest.Subtests) -> None:
    option = OPTIONS["rpc"]
    assert option.parse(" a-b.local:1,10.0.0.1:65535 ") == "a-b.local:1,10.0.0.1:65535"
    nodes = [f"a:{port}" for port in range(1, 18)]
    addresses = ("host", "host:0", "host:65536", "host:５", "1.2.3:1", "1.2.3.256:1", "1.2.3.04:1", "[::1]:1")
    for value in (*addresses, "a:1,a:1", ",".join(nodes)):
        with subtests.test(value=value[:20]), pytest.raises(OptionError):
            option.parse(value)


# -- draft models ------------------------------------------------------------------------------------------------------


def test_a_draft_model_is_loaded_with_what_suits_it() -> None:
    assert "draft" not in calls()
    made = calls(
        GPU_BUILD, model_draft="small.gguf", n_ctx=4096, rope_freq_base=5e5, tensor_split="1,2", n_gpu_layers=9
    )
    small = made["draft"]
    assert (small[CONTEXT]["n_ctx"], small[MODEL]["n_gpu_layers"]) == (4096, -1)
    assert "rope_freq_base" not in small[CONTEXT] and "tensor_split" not in small[MODEL]
    assert small["common_params_speculative"] == {"n_max": 4}
    made = calls(model_draft="small.gguf", draft_max=7, ctx_size_draft=512, gpu_layers_draft=3, kv_unified="off")
    assert (made["draft"][CONTEXT]["n_ctx"], made["draft"][MODEL]["n_gpu_layers"]) == (512, 3)
    assert made["draft"][CONTEXT]["kv_unified"] and not made[CONTEXT]["kv_unified"]
    assert made["draft"]["common_params_speculative"] == {"n_max": 7}


def test_a_draft_model_is_found_beside_the_model_and_in_the_folders_above(tmp_path: Path) -> None:
    model = tmp_path / "models" / "publisher" / "large.gguf"
    (model.parent / "sub").mkdir(parents=True)
    for path in (model.parent / "a.gguf", tmp_path / "models" / "b.gguf", model.parent / "sub" / "c.gguf"):
        path.touch()
    for name, found in {"a.gguf": model.parent, "b.gguf": tmp_path / "models", "absent.gguf": model.parent}.items():
        assert draft_path(model, {"model_draft": name}) == found / name
    assert draft_path(model, {"model_draft": "publisher/sub/c.gguf"}) == model.parent / "sub" / "c.gguf"
    assert draft_path(model, {"model_draft": ""}) is None


def test_a_draft_model_cannot_be_named_outside_the_folder_of_models(subtests: pytest.Subtests) -> None:
    for name in ("/etc/a.gguf", "../a.gguf", "a/../../b.gguf", "a//b.gguf", "./a.gguf", "a.bin", "c:\\a.gguf"):
        with subtests.test(name), pytest.raises(OptionError):
            OPTIONS["model_draft"].parse(name)
    assert OPTIONS["model_draft"].parse("publisher/a b.gguf") == "publisher/a b.gguf"
