"""Training parameters as arguments: the schedule, target modules, kernels through which gradients flow, dtypes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import Unsupported
from modules.engines.hf.arguments import Environment, model_call
from modules.engines.training.arguments import (
    Schedule,
    base_calls,
    choose_targets,
    load_options,
    schedule,
    trainer_arguments,
)
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.training.parameters import TARGETS, parse_parameters

OPTIONS = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={}))
CPU, GPU = Environment(), Environment((40 << 30,), packages=frozenset({"triton"}))
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}


def parameters(**changes: Any) -> dict[str, Any]:
    return parse_parameters({"lora_name": "a", **changes})


def test_steps_are_updates_and_the_warm_up_never_eats_small_data(subtests: pytest.Subtests) -> None:
    cases: list[tuple[int, dict[str, Any], Schedule]] = [
        (20, {}, Schedule(3, 4, 8, 0, 1, 0)),
        (20, {"batch_size": 4}, Schedule(15, 4, 1, 1, 5, 0)),
        (20, {"batch_size": 4, "micro_batch_size": 1}, Schedule(15, 1, 4, 1, 5, 0)),
        (3, {"batch_size": 2, "micro_batch_size": 2, "epochs": 1}, Schedule(2, 2, 1, 0, 2, 0)),
        (10_000, {}, Schedule(939, 4, 8, 93, 313, 0)),
        (100_000, {}, Schedule(9375, 4, 8, 100, 3125, 0)),
        (100, {"batch_size": 4, "warmup_steps": 30}, Schedule(75, 4, 1, 30, 25, 0)),
        (100, {"batch_size": 4, "warmup_steps": 0.2}, Schedule(75, 4, 1, 15, 25, 0)),
        (100, {"batch_size": 4, "save_steps": 7}, Schedule(75, 4, 1, 7, 7, 0)),
        (10, {"batch_size": 4, "packing": True}, Schedule(9, 1, 4, 0, 3, 0)),
        (4, {"batch_size": 4, "epochs": 100}, Schedule(100, 4, 1, 10, 5, 0)),
    ]
    for rows, changes, expected in cases:
        with subtests.test(rows=rows, **changes):
            assert schedule(parameters(**changes), rows) == expected


def test_checkpoints_are_written_where_evaluations_are_made() -> None:
    long = schedule(parameters(batch_size=4, eval_steps=30, save_steps=7), 1000, validates=True)
    assert (long.eval_steps, long.save_steps) == (30, 30)
    short = schedule(parameters(batch_size=4), 100, validates=True)
    assert (short.updates, short.eval_steps, short.save_steps) == (75, 8, 8)
    arguments = trainer_arguments(parameters(), long, Path("x"), "float32", on_cpu=True)
    assert arguments["load_best_model_at_end"] and arguments["save_total_limit"] == 3
    assert arguments["logging_nan_inf_filter"] is False and arguments["remove_unused_columns"] is False


def test_activations_are_recomputed_on_a_gpu_unless_that_is_turned_off(subtests: pytest.Subtests) -> None:
    plan = schedule(parameters(), 100)
    for choice, on_cpu, expected in (
        ("auto", True, False),
        ("auto", False, True),
        ("on", True, True),
        ("off", False, False),
    ):
        with subtests.test(choice=choice, on_cpu=on_cpu):
            values = parameters(gradient_checkpointing=choice)
            assert (
                trainer_arguments(values, plan, Path("x"), "bfloat16", on_cpu)["activation_checkpointing"] is expected
            )


def test_targets_are_names_that_the_model_has(subtests: pytest.Subtests) -> None:
    llama = set(TARGETS)
    phi = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    cases: list[tuple[dict[str, bool], set[str], list[str]]] = [
        ({}, llama, sorted(llama)),
        ({}, phi, sorted(phi)),
        ({"all_linear": False, "q_proj_en": True, "v_proj_en": True}, llama, ["q_proj", "v_proj"]),
        ({"all_linear": False, "q_proj_en": True, "v_proj_en": True}, phi, ["qkv_proj"]),
        ({"all_linear": False, "q_proj_en": True}, {"c_attn", "c_proj", "c_fc"}, ["c_attn"]),
        ({"all_linear": False, "up_proj_en": True}, {"dense_h_to_4h", "query_key_value"}, ["dense_h_to_4h"]),
    ]
    for changes, present, expected in cases:
        with subtests.test(present=",".join(sorted(present)), **changes):
            assert choose_targets(parameters(**changes), present) == expected
    with pytest.raises(Unsupported, match="in_proj, x_proj"):
        choose_targets(parameters(all_linear=False, q_proj_en=True), {"x_proj", "in_proj"})


def test_kernels_and_dtypes_can_be_trained_through(tmp_path: Path, subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, Any] | None, str, Environment, bool, str, str]] = [
        (None, "auto", CPU, False, "float32", ""),
        (None, "bfloat16", CPU, False, "bfloat16", ""),
        (None, "auto", GPU, True, "bfloat16", ""),
        (None, "auto", GPU, False, "float16", ""),
        (None, "float32", GPU, True, "float32", ""),
        (GPTQ, "auto", CPU, False, "float32", "gptq_torch"),
        (GPTQ, "bfloat16", CPU, False, "bfloat16", "gptq_torch"),
        (GPTQ, "auto", GPU, True, "bfloat16", "gptq_triton"),
        (GPTQ | {"bits": 3}, "auto", GPU, True, "bfloat16", "gptq_torch"),
        (AWQ, "auto", CPU, False, "float32", "torch_awq"),
        (AWQ, "auto", GPU, True, "bfloat16", "gemm_triton"),
    ]
    for quantization, weights, environment, has_bf16, dtype, kernel in cases:
        with subtests.test(quantization=str(quantization), weights=weights, gpu=bool(environment.gpus)):
            config = LLAMA | ({"quantization_config": quantization} if quantization else {})
            (tmp_path / "config.json").write_text(json.dumps(config))
            _, args = model_call(base_calls(tmp_path, OPTIONS, weights, environment, has_bf16))
            assert args["dtype"] == dtype
            assert args.get("quantization_config", {}).get("backend", "") == kernel


def test_an_option_for_chatting_does_not_change_the_precision_that_was_chosen(tmp_path: Path) -> None:
    chatting = {**OPTIONS, "load_in_4bit": True, "bf16": True, "disk": True}
    options = load_options(parameters(base_weights="8-bit"), chatting, "")
    assert (options["load_in_8bit"], options["load_in_4bit"], options["disk"]) == (True, False, False)
    for weights in ("8-bit", "4-bit", "float16"):
        with pytest.raises(Unsupported, match="already quantized"):
            load_options(parameters(base_weights=weights), OPTIONS, "gptq")


def test_quantized_weights_have_no_orthogonal_start() -> None:
    orthogonal = parameters(init_lora_weights="orthogonal")
    load_options(orthogonal, OPTIONS, "")
    for chosen, method in ((orthogonal, "gptq"), ({**orthogonal, "base_weights": "4-bit"}, "")):
        with pytest.raises(Unsupported, match="orthogonal is not possible"):
            load_options(chosen, OPTIONS, method)


def test_models_that_do_not_continue_a_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(Unsupported, match="encoder-decoder"):
        base_calls(tmp_path, OPTIONS, "auto", CPU, False)
