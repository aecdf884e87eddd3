"""Translate training parameters into arguments of transformers' Trainer and PEFT, without importing either."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.engines.hf.arguments import (
    CAUSAL,
    IMAGES,
    Environment,
    ModelConfig,
    arguments,
    model_call,
    runs_on_cpu,
)
from modules.options.option import Value

Parameters = Mapping[str, Value]
Options = Mapping[str, Value]

_MOST_CHECKPOINTS = 20
"""How often at most a run without an interval of its own writes a checkpoint."""
_FEWEST_EVALUATIONS = 10
_WARMUP_SHARE, _MOST_WARMUP = 0.1, 100
_KEPT_CHECKPOINTS = 2
_QUANTIZED = {"8-bit": "load_in_8bit", "4-bit": "load_in_4bit"}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "q", "query"),
    "k_proj": ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "k", "key"),
    "v_proj": ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "v", "value"),
    "o_proj": ("dense", "out_proj", "c_proj", "o"),
    "gate_proj": ("gate_up_proj", "w1"),
    "up_proj": ("gate_up_proj", "dense_h_to_4h", "fc1", "c_fc", "w3"),
    "down_proj": ("dense_4h_to_h", "fc2", "w2"),
}
"""What other architectures call these layers; some compute several of them at once."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run: `updates` of the weights, each by `accumulation` micro-batches of `micro` rows.

    The learning rate rises during the first `warmup` updates. A checkpoint is written every `save_steps` updates, an
    evaluation is made every `eval_steps` (0: never).
    """

    updates: int
    micro: int
    accumulation: int
    warmup: int
    save_steps: int
    eval_steps: int


def schedule(parameters: Parameters, rows: int, validates: bool = False) -> Schedule:
    """Return the schedule for a number of rows; with packing, of packed sequences."""
    batch = max(int(parameters["batch_size"]), 1)
    micro = 1 if parameters["packing"] else min(int(parameters["micro_batch_size"]), batch)
    accumulation = max(batch // micro, 1)
    per_epoch = math.ceil(math.ceil(rows / micro) / accumulation)
    updates = max(math.ceil(float(parameters["epochs"]) * per_epoch), 1)
    eval_steps = int(parameters["eval_steps"]) if validates else 0
    if eval_steps >= updates:  # short runs would be evaluated at their end alone
        eval_steps = math.ceil(updates / _FEWEST_EVALUATIONS)
    save_steps = eval_steps or int(parameters["save_steps"]) or max(per_epoch, math.ceil(updates / _MOST_CHECKPOINTS))
    return Schedule(updates, micro, accumulation, _warmup(parameters, updates), save_steps, eval_steps)


def _warmup(parameters: Parameters, updates: int) -> int:
    """Return the updates of warm-up. Unless set, at most a tenth of all: small data would end before it does."""
    asked = float(parameters["warmup_steps"])
    if asked < 0:
        return min(int(_WARMUP_SHARE * updates), _MOST_WARMUP)
    return int(asked * updates if asked < 1 else asked)


def trainer_arguments(
    parameters: Parameters, plan: Schedule, folder: Path, dtype: str, on_cpu: bool
) -> dict[str, Json]:
    """Return the arguments of `TrainingArguments`. `dtype` is what the base model computes in."""
    keeps_best = bool(plan.eval_steps)
    checkpointing = parameters["gradient_checkpointing"]
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": plan.micro,
        "per_device_eval_batch_size": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        "max_steps": plan.updates,
        "learning_rate": float(parameters["learning_rate"]),
        "lr_scheduler_type": str(parameters["lr_scheduler_type"]),
        "warmup_steps": plan.warmup,
        "optim": str(parameters["optimizer"]),
        "weight_decay": float(parameters["weight_decay"]),
        "max_grad_norm": float(parameters["max_grad_norm"]),
        "activation_checkpointing": checkpointing == "on" or (checkpointing == "auto" and not on_cpu),
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "seed": int(parameters["seed"]),
        "use_cpu": on_cpu,
        "bf16": not on_cpu and dtype == "bfloat16",
        "fp16": not on_cpu and dtype == "float16",
        "save_strategy": "steps",
        "save_steps": plan.save_steps,
        "save_total_limit": _KEPT_CHECKPOINTS + keeps_best,
        "eval_strategy": "steps" if keeps_best else "no",
        "eval_steps": plan.eval_steps or None,
        "load_best_model_at_end": keeps_best,
        "metric_for_best_model": "eval_loss" if keeps_best else None,
        "greater_is_better": False if keeps_best else None,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the default hides that a loss is not a number
        "report_to": "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }


def lora_arguments(parameters: Parameters, targets: Collection[str]) -> dict[str, Json]:
    """Return the arguments of `LoraConfig` for the modules `targets`."""
    start = parameters["init_lora_weights"]
    return {
        "task_type": "CAUSAL_LM",
        "r": int(parameters["lora_rank"]),
        "lora_alpha": float(parameters["lora_alpha"]),
        "lora_dropout": float(parameters["lora_dropout"]),
        "use_rslora": bool(parameters["use_rslora"]),
        "use_dora": bool(parameters["use_dora"]),
        "init_lora_weights": True if start == "default" else str(start),
        "target_modules": sorted(targets),
    }


def choose_targets(parameters: Parameters, present: Collection[str]) -> list[str]:
    """Return the names of linear layers to train, out of those `present` in the blocks of the model.

    Raises Unsupported if the model has none of those chosen.
    """
    if parameters["all_linear"]:
        return sorted(present)
    chosen = [target for target in TARGETS if parameters[f"{target}_en"]]
    names = {target: [name for name in (target, *_OTHER_NAMES[target]) if name in present][:1] for target in chosen}
    if found := sorted({name for matches in names.values() for name in matches}):
        return found
    listed = ", ".join(sorted(present))
    raise Unsupported(
        {
            "en": f"The model has none of the chosen target modules ({', '.join(chosen)}). Its linear layers are "
            f"called {listed}. Choose “All linear layers”.",
            "zh": f"模型中没有所选的目标模块（{'、'.join(chosen)}），其线性层名为 {listed}。请选择“所有线性层”。",
        }
    )


def load_options(parameters: Parameters, options: Options, method: str) -> dict[str, Value]:
    """Return the options by which the base model is loaded, out of those `options` by which it would be for chatting.

    `method` is how the stored weights are quantized, "" if they are not.
    """
    weights = str(parameters["base_weights"])
    if method and weights in (*_QUANTIZED, "float16"):
        raise Unsupported(
            {
                "en": f"base_weights: {weights} is not possible, as the base model is already quantized ({method}). "
                "Choose auto.",
                "zh": f"基础模型已量化（{method}），base_weights 不能为 {weights}，请选择 auto。",
            }
        )
    if method and parameters["use_dora"]:
        raise Unsupported(
            {
                "en": f"use_dora: DoRA cannot be trained on quantized weights ({method}). Turn it off.",
                "zh": f"use_dora：量化权重（{method}）不支持 DoRA，请取消勾选。",
            }
        )
    if parameters["init_lora_weights"] == "orthogonal" and (method or weights in _QUANTIZED):
        raise Unsupported(
            {
                "en": f"init_lora_weights: orthogonal is not possible on quantized weights ({method or weights}). "
                "Choose default.",
                "zh": f"init_lora_weights：量化权重（{method or weights}）不支持 orthogonal，请选择 default。",
            }
        )
    changed = {**options, "cpu": bool(parameters["cpu"] or options["cpu"])}
    changed |= {"load_in_8bit": weights == "8-bit", "load_in_4bit": weights == "4-bit", "bf16": weights == "bfloat16"}
    return changed | {"disk": False}  # PEFT cannot train beside weights on disk


def base_calls(
    path: Path, options: Options, weights: str, environment: Environment, gpu_has_bf16: bool
) -> dict[str, Json]:
    """Return the calls that load a base model with kernels that can be trained through."""
    config, on_cpu = ModelConfig(path), runs_on_cpu(options, environment.gpus)
    calls = arguments(path, options, environment)
    name, args = model_call(calls)
    if name not in (CAUSAL, IMAGES):
        raise Unsupported(
            {
                "en": "Only models that continue a text can be trained here, not encoder-decoder models.",
                "zh": "此处只能训练续写文本的模型，不支持编码器-解码器模型。",
            }
        )
    args = {**args, "dtype": training_dtype(weights, config, args["dtype"], on_cpu, gpu_has_bf16)}
    if config.quantization_method in ("gptq", "awq"):
        kernel = training_kernel(config, environment, on_cpu)
        args["quantization_config"] = {"quant_method": config.quantization_method, "bits": config.bits} | kernel
    elif isinstance(args.get("quantization_config"), dict) and args["quantization_config"].get("load_in_4bit"):
        compute = {"bnb_4bit_compute_dtype": args["dtype"]}
        args["quantization_config"] = args["quantization_config"] | compute
    return {**calls, f"{name}.from_pretrained": args}


def training_dtype(weights: str, config: ModelConfig, chosen: str, on_cpu: bool, gpu_has_bf16: bool) -> str:
    """Return the dtype of activations: as asked for, else 16 bits on a GPU and what loading chooses on a CPU."""
    if weights in ("float32", "bfloat16", "float16"):
        return weights
    if on_cpu:
        return "float32" if not config.quantization_method and weights == "auto" else chosen
    return "bfloat16" if gpu_has_bf16 else "float16"


def training_kernel(config: ModelConfig, environment: Environment, on_cpu: bool) -> dict[str, Json]:
    """Return the gptqmodel kernel through which gradients flow.

    Its default on a CPU repacks the weights at the first forward pass without gradients, after which most adapters get
    none. Marlin, Machete, ExLlamaV2 and the compiled CPU kernels have no backward pass.
    """
    triton = not on_cpu and "triton" in environment.packages
    if config.quantization_method == "gptq":
        return {"backend": "gptq_triton" if triton and config.bits in (2, 4, 8) else "gptq_torch"}
    gemm = triton and config.bits == 4 and config.quantization.get("group_size", 128) in (-1, 32, 64, 128)
    return {"backend": "gemm_triton" if gemm else "torch_awq"}
