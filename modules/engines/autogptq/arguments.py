"""Translate load options into calls of auto-gptq, without importing it.

The calls are JSON, so that they can be shown and tested. `autogptq.build` turns the name of the dtype into a torch
dtype, `quantize_config` into a BaseQuantizeConfig, and the keys of `max_memory` back into device numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.hf.arguments import Environment
from modules.engines.legacy.arguments import SUFFIXES, LegacyPlan, read_json, weight_files
from modules.engines.legacy.int4_kernel import GROUP_SIZES
from modules.options.option import Value

LOAD = "AutoGPTQForCausalLM.from_quantized"
KERNEL = "torch._weight_int4pack_mm_for_cpu"
KERNEL_BITS = (4, 8)
DEFAULT_BITS = 4
"""Bits per weight where neither the model nor `wbits` says, as in the original web UI."""
_SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}")
_FUSIBLE_MODEL_TYPES = ("llama",)
"""Architectures whose fused modules in auto-gptq work with Transformers 4.51. Those for GPT-J and for remote code do
not."""
_TRITON_BITS = (2, 4, 8)
EXLLAMA, EXLLAMAV2, CUDA = "exllama_kernels", "exllamav2_kernels", "autogptq_cuda_64"
"""auto-gptq's compiled modules. Its wheel's are for an older PyTorch; `hf.compiled_extensions` tells which fit."""


class Plan(LegacyPlan):
    @cached_property
    def quantization(self) -> Mapping[str, Any]:
        """Return the model's quantization by its own files; empty for old models."""
        file = read_json(self.path / "quantize_config.json")
        config = self.model_config.fields.get("quantization_config")
        return file | (config if isinstance(config, dict) else {})

    @property
    def file_bits(self) -> int:
        return _positive_int(self.quantization.get("bits"))

    @property
    def file_group_size(self) -> int:
        return _positive_int(self.quantization.get("group_size"))

    @property
    def bits(self) -> int:
        return int(self.options["wbits"]) or self.file_bits or DEFAULT_BITS

    @property
    def group_size(self) -> int:
        typed = int(self.options["groupsize"])
        return typed if typed != -1 else self.file_group_size or -1

    @property
    def act_order(self) -> bool:
        return bool(self.options["desc_act"] or self.quantization.get("desc_act"))

    @property
    def dtype(self) -> str:
        """Return float16, which GPTQ models are made for; bfloat16 on a CPU that unpacks layers for every token."""
        return "bfloat16" if self.on_cpu and not self.uses_cpu_kernel else "float16"

    @property
    def exceeds_gpus(self) -> bool:
        """Whether a part of the model will not be on a GPU, judging by the size of its files."""
        on_gpus = sum(size for device, size in self.limits.items() if device != "cpu")
        return self.on_cpu or (self.spread and on_gpus < self.weights_size)

    @property
    def may_offload_to_disk(self) -> bool:
        return self.spread and bool(self.options["disk"])

    # -- files --------------------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[Path]:
        """Return the weight files of the first suffix that occurs, sorted by name."""
        return next((files for suffix in SUFFIXES if (files := weight_files(self.path, suffix))), [])

    @property
    def weights_size(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def basename(self) -> str:
        """Return the name of the last file, as the original web UI does, or of the split set that it belongs to."""
        stem = self.files[-1].stem if self.files else "model"
        part = _SPLIT_NAME.fullmatch(stem)
        return part[1] if part else stem

    @property
    def safetensors(self) -> bool:
        return not self.files or self.files[-1].suffix == ".safetensors"

    # -- kernels ------------------------------------------------------------------------------------------------------

    @property
    def supports_triton(self) -> bool:
        """Whether Triton's kernels could run the model, installed or not."""
        return not self.on_cpu and self.bits in _TRITON_BITS

    @property
    def has_triton(self) -> bool:
        return "triton" in self.environment.packages

    @property
    def triton(self) -> bool:
        return bool(self.options["triton"]) and self.supports_triton and self.has_triton

    @property
    def exllama_kernels(self) -> tuple[bool, bool]:
        """Return whether ExLlama's and ExLlamaV2's kernels are used. Both take 4 bits, entirely on GPUs."""
        possible = not self.exceeds_gpus and not self.triton and self.bits == 4
        first, second = (possible and name in self.environment.packages for name in (EXLLAMA, EXLLAMAV2))
        second = second and not self.options["disable_exllamav2"]
        return first and not second and not self.options["disable_exllama"], second

    @property
    def cuda_kernel(self) -> bool:
        """Whether auto-gptq's plain CUDA kernel is used, the one that `no_use_cuda_fp16` concerns."""
        plain = self._lacks_fast_kernel and CUDA in self.environment.packages
        return plain and self.bits != 8 and (self.group_size == -1 or not self.act_order)

    @property
    def unpacks(self) -> bool:
        """Whether a GPU has no kernel for the model, so that every layer is unpacked for every token."""
        return self._lacks_fast_kernel and CUDA not in self.environment.packages

    @property
    def _lacks_fast_kernel(self) -> bool:
        """Whether a GPU has no kernel that takes precedence over auto-gptq's plain one."""
        return not self.on_cpu and not self.triton and not any(self.exllama_kernels)

    @property
    def uses_cpu_kernel(self) -> bool:
        """Whether PyTorch's kernel for CPUs is used; auto-gptq has none (see `autogptq.cpu_kernel`)."""
        splittable = self.group_size == -1 or self.group_size % GROUP_SIZES[-1] == 0
        return self.on_cpu and self.bits in KERNEL_BITS and splittable

    @property
    def heads(self) -> tuple[int, int]:
        """Return the number of heads of queries, and of keys and values."""
        text = self.model_config.text
        own = int(text.get("num_attention_heads") or text.get("n_head") or 0)
        return own, int(text.get("num_key_value_heads") or own)

    @property
    def fused_attention_obstacle(self) -> str:
        """Return why attention cannot be fused, as a key of the notes' texts; "" if it can."""
        heads, kv_heads = self.heads
        head_size = int(self.model_config.text.get("head_dim") or 0)
        if self.model_config.text.get("model_type") not in _FUSIBLE_MODEL_TYPES:
            return "architecture"
        if heads != kv_heads:
            return "grouped"
        if head_size and head_size * heads != self.model_config.text.get("hidden_size"):
            return "width"
        if self.exllama_kernels[0] and self.act_order:
            return "exllama"
        return "disk" if self.may_offload_to_disk else ""

    @property
    def fused_attention(self) -> bool:
        return not self.options["no_inject_fused_attention"] and not self.fused_attention_obstacle

    @property
    def has_fusible_mlp(self) -> bool:
        return self.model_config.text.get("model_type") in _FUSIBLE_MODEL_TYPES

    @property
    def fused_mlp(self) -> bool:
        """Whether the MLP is fused. It reads weights past accelerate's hooks, which would load them from disk."""
        possible = self.triton and self.has_fusible_mlp and not self.may_offload_to_disk
        return possible and not self.options["no_inject_fused_mlp"]


def arguments(path: Path, options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Return the calls that load `path`, in order, with exactly the arguments that differ from the defaults."""
    plan = Plan(path, options, environment)
    exllama, exllamav2 = plan.exllama_kernels
    return {
        **plan.tokenizer,
        **plan.config_changes,
        LOAD: {
            "model_name_or_path": str(path),
            "model_basename": plan.basename,
            "use_safetensors": plan.safetensors,
            "torch_dtype": plan.dtype,
            "low_cpu_mem_usage": True,
            **_placement(plan),
            "quantize_config": {"bits": plan.bits, "group_size": plan.group_size, "desc_act": plan.act_order},
            "use_triton": plan.triton,
            "inject_fused_attention": plan.fused_attention,
            "inject_fused_mlp": plan.fused_mlp,
            "use_cuda_fp16": not options["no_use_cuda_fp16"] and not plan.on_cpu,
            "disable_exllama": not exllama,
            "disable_exllamav2": not exllamav2,
            "trust_remote_code": plan.trusted,
            "local_files_only": True,
        },
        **({KERNEL: {"dtype": "bfloat16"}} if plan.uses_cpu_kernel else {}),
    }


def _placement(plan: Plan) -> dict[str, Json]:
    args: dict[str, Json] = {"device_map": plan.device_map}
    if plan.spread:
        args["max_memory"] = plan.limits
        if plan.may_offload_to_disk:
            args["offload_folder"] = "cache/offload"  # the worker makes a folder of its own in there
    return args


def _positive_int(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
