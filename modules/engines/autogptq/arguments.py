"""From load options to auto-gptq's calls: pure, so that it can be shown and tested without the package.

What stands here as JSON becomes Python in `autogptq_loading`: the name of the dtype torch's, `quantize_config` a
BaseQuantizeConfig, and the numbers in `max_memory` are device numbers again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER, Machine
from modules.engines.legacy.arguments import SUFFIXES, LegacyPlan, read_json, weights
from modules.options.option import Value

LOAD = "AutoGPTQForCausalLM.from_quantized"
KERNEL = "torch._weight_int4pack_mm_for_cpu"
KERNEL_BITS = (4, 8)
KERNEL_GROUPS = (256, 128, 64, 32)
"""Weights to a scale that PyTorch's kernel takes; larger groups are several of these."""
USUAL_BITS = 4  # where neither the model nor anybody else tells, as the original took it
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}")
_FUSED = ("llama",)
"""Those of auto-gptq's modules that fit transformers 4.51: not the one for GPT-J, nor those for models' own code."""
_TRITON_BITS = (2, 4, 8)
EXLLAMA, EXLLAMAV2, CUDA = "exllama_kernels", "exllamav2_kernels", "autogptq_cuda_64"
"""auto-gptq's compiled modules. Its wheel's were built for an older PyTorch; `compiled` tells what fits."""


class Plan(LegacyPlan):
    @cached_property
    def said(self) -> Mapping[str, Any]:
        """What the model's files say of its quantisation; nothing of old ones."""
        beside = read_json(self.path / "quantize_config.json")
        within = self.about.config.get("quantization_config")
        return beside | (within if isinstance(within, dict) else {})

    @property
    def said_bits(self) -> int:
        return _whole(self.said.get("bits"))

    @property
    def said_group(self) -> int:
        return _whole(self.said.get("group_size"))

    @property
    def bits(self) -> int:
        return int(self.options["wbits"]) or self.said_bits or USUAL_BITS

    @property
    def group(self) -> int:
        typed = int(self.options["groupsize"])
        return typed if typed != -1 else self.said_group or -1

    @property
    def act_order(self) -> bool:
        return bool(self.options["desc_act"] or self.said.get("desc_act"))

    @property
    def dtype(self) -> str:
        """As such models were made for. Where every layer is unpacked for every token, a CPU is slow with it."""
        return "bfloat16" if self.on_cpu and not self.quick else "float16"

    @property
    def leaves_gpu(self) -> bool:
        """Whether a part of it will not be on a GPU, as far as the files' size tells."""
        cards = sum(size for device, size in self.limits.items() if device != "cpu")
        return self.on_cpu or (self.spreads and cards < self.weights_size)

    @property
    def may_leave_on_disk(self) -> bool:
        return self.spreads and bool(self.options["disk"])

    # -- files --------------------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[Path]:
        """The weight files: those of the first kind that there is, in order."""
        return next((found for suffix in SUFFIXES if (found := weights(self.path, suffix))), [])

    @property
    def weights_size(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def basename(self) -> str:
        """That of the last file, as the original took it, or of the set that it is a part of."""
        stem = self.files[-1].stem if self.files else "model"
        part = _PART.fullmatch(stem)
        return part[1] if part else stem

    @property
    def safetensors(self) -> bool:
        return not self.files or self.files[-1].suffix == ".safetensors"

    # -- kernels ------------------------------------------------------------------------------------------------------

    @property
    def suits_triton(self) -> bool:
        """Whether its kernels could compute it, if they are installed."""
        return not self.on_cpu and self.bits in _TRITON_BITS

    @property
    def has_triton(self) -> bool:
        return "triton" in self.machine.packages

    @property
    def triton(self) -> bool:
        return bool(self.options["triton"]) and self.suits_triton and self.has_triton

    @property
    def exllamas(self) -> tuple[bool, bool]:
        """Whether ExLlama's kernel may be used, and ExLlamaV2's: they have 4 bits only and nothing but GPUs."""
        possible = not self.leaves_gpu and not self.triton and self.bits == 4
        first, second = (possible and each in self.machine.packages for each in (EXLLAMA, EXLLAMAV2))
        second = second and not self.options["disable_exllamav2"]
        return first and not second and not self.options["disable_exllama"], second

    @property
    def cuda_kernel(self) -> bool:
        """Whether auto-gptq's plain kernel is used, which is there in two precisions."""
        plain = self._no_better and CUDA in self.machine.packages
        return plain and self.bits != 8 and (self.group == -1 or not self.act_order)

    @property
    def unpacks(self) -> bool:
        """Whether, on a GPU, there is no kernel for it: a layer's floats are made anew for every token."""
        return self._no_better and CUDA not in self.machine.packages

    @property
    def _no_better(self) -> bool:
        """Whether, on a GPU, no kernel goes before auto-gptq's plain one."""
        return not self.on_cpu and not self.triton and not any(self.exllamas)

    @property
    def quick(self) -> bool:
        """Whether PyTorch's kernel for CPUs stands in for auto-gptq's way, which has none: see `autogptq_cpu`."""
        return self.on_cpu and self.bits in KERNEL_BITS and (self.group == -1 or self.group % KERNEL_GROUPS[-1] == 0)

    @property
    def heads(self) -> tuple[int, int]:
        """Of queries, and of keys and values."""
        text = self.about.text
        own = int(text.get("num_attention_heads") or text.get("n_head") or 0)
        return own, int(text.get("num_key_value_heads") or own)

    @property
    def why_no_fused_attention(self) -> str:
        """A key of the notes' words; "" where it can be."""
        own, shared = self.heads
        head = int(self.about.text.get("head_dim") or 0)
        if self.about.text.get("model_type") not in _FUSED:
            return "architecture"
        if own != shared:
            return "grouped"
        if head and head * own != self.about.text.get("hidden_size"):
            return "width"
        if self.exllamas[0] and self.act_order:
            return "exllama"
        return "disk" if self.may_leave_on_disk else ""

    @property
    def fused_attention(self) -> bool:
        return not self.options["no_inject_fused_attention"] and not self.why_no_fused_attention

    @property
    def knows_mlp(self) -> bool:
        return self.about.text.get("model_type") in _FUSED

    @property
    def fused_mlp(self) -> bool:
        """It reads the weights of its parts past their hooks, without which what stays on disk is not there."""
        possible = self.triton and self.knows_mlp and not self.may_leave_on_disk
        return possible and not self.options["no_inject_fused_mlp"]


def arguments(path: Path, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    """The calls that load `path`, in order: exactly what is passed, less the libraries' defaults."""
    plan = Plan(path, options, machine)
    exllama, exllamav2 = plan.exllamas
    return {
        TOKENIZER: plan.tokenizer,
        LOAD: {
            "model_name_or_path": str(path),
            "model_basename": plan.basename,
            "use_safetensors": plan.safetensors,
            "torch_dtype": plan.dtype,
            "low_cpu_mem_usage": True,
            **_placement(plan),
            "quantize_config": {"bits": plan.bits, "group_size": plan.group, "desc_act": plan.act_order},
            "use_triton": plan.triton,
            "inject_fused_attention": plan.fused_attention,
            "inject_fused_mlp": plan.fused_mlp,
            "use_cuda_fp16": not options["no_use_cuda_fp16"] and not plan.on_cpu,
            "disable_exllama": not exllama,
            "disable_exllamav2": not exllamav2,
            "trust_remote_code": plan.trusted,
            "local_files_only": True,
        },
        **({KERNEL: {"dtype": "bfloat16"}} if plan.quick else {}),
    }


def _placement(plan: Plan) -> dict[str, Json]:
    args: dict[str, Json] = {"device_map": plan.device_map}
    if plan.spreads:
        args["max_memory"] = plan.limits
        if plan.may_leave_on_disk:
            args["offload_folder"] = "cache/offload"  # a folder of its own in there for each worker
    return args


def _whole(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
