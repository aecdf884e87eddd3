"""From load options to auto-gptq's calls: pure, so that it can be shown and tested without the package.

What stands here as JSON becomes Python in `autogptq_loading`: the name of the dtype torch's, `quantize_config` a
BaseQuantizeConfig, and the numbers in `max_memory` are device numbers again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.engines.hf_arguments import TOKENIZER, About, Machine
from modules.events import Json
from modules.options import Value, size_in_bytes
from modules.own_code import code_elsewhere

LOAD = "AutoGPTQForCausalLM.from_quantized"
KERNEL = "torch._weight_int4pack_mm_for_cpu"
KERNEL_BITS = (4, 8)
KERNEL_GROUPS = (256, 128, 64, 32)
"""Weights to a scale that PyTorch's kernel takes; larger groups are several of these."""
USUAL_BITS = 4  # where neither the model nor anybody else tells, as the original took it
_SUFFIXES = (".safetensors", ".pt", ".bin")
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}")
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")
_FUSED = ("llama",)
"""Those of auto-gptq's modules that fit transformers 4.51: not the one for GPT-J, nor those for models' own code."""
_TRITON_BITS = (2, 4, 8)


@dataclass(frozen=True)
class Plan:
    """What becomes of the options for one model on one machine; `arguments` and the notes tell the same by it."""

    path: Path
    options: Mapping[str, Value]
    machine: Machine

    @cached_property
    def about(self) -> About:
        return About(self.path)

    @cached_property
    def said(self) -> Mapping[str, Any]:
        """What the model's files say of its quantisation; nothing of old ones."""
        beside = _json(self.path / "quantize_config.json")
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
    def on_cpu(self) -> bool:
        return bool(self.options["cpu"]) or not self.machine.gpus

    @property
    def dtype(self) -> str:
        """Kernels for GPUs want float16, with which a CPU is slow."""
        return "bfloat16" if self.on_cpu else "float16"

    # -- where it goes ------------------------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        return bool(self.options["cpu_memory"] or (self.options["gpu_memory"] and not self.on_cpu))

    @property
    def spreads(self) -> bool:
        return self.limited or (not self.on_cpu and bool(self.options["auto_devices"]))

    @property
    def limits(self) -> dict[str, int]:
        """accelerate uses no device that is not named here."""
        found: dict[str, int] = {}
        if not self.on_cpu:
            given = [size_in_bytes(each) for each in re.split(r"[, ]+", str(self.options["gpu_memory"])) if each]
            sizes = given or [int(size * 0.9) for size in self.machine.gpus]
            found |= {str(device): size for device, size in enumerate(sizes[: len(self.machine.gpus)])}
        own = str(self.options["cpu_memory"])
        found["cpu"] = size_in_bytes(own) if own else self.machine.memory
        return found

    @property
    def leaves_gpu(self) -> bool:
        """Whether a part of it will not be on a GPU, as far as the files' size tells."""
        cards = sum(size for device, size in self.limits.items() if device != "cpu")
        return self.on_cpu or (self.spreads and cards < self.weights_size)

    # -- files --------------------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[Path]:
        """The weight files: those of the first kind that there is, in order."""
        return next((found for suffix in _SUFFIXES if (found := _weights(self.path, suffix))), [])

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
    def triton(self) -> bool:
        possible = not self.on_cpu and "triton" in self.machine.packages and self.bits in _TRITON_BITS
        return bool(self.options["triton"]) and possible

    @property
    def exllamas(self) -> tuple[bool, bool]:
        """Whether ExLlama's kernel may be used, and ExLlamaV2's: they have 4 bits only and nothing but GPUs."""
        possible = not self.leaves_gpu and not self.triton and self.bits == 4
        second = possible and not self.options["disable_exllamav2"]
        return possible and not second and not self.options["disable_exllama"], second

    @property
    def cuda_kernel(self) -> bool:
        """Whether auto-gptq's plain kernel is used, which is there in two precisions."""
        plain = not self.on_cpu and not self.triton and not any(self.exllamas)
        return plain and self.bits != 8 and (self.group == -1 or not self.act_order)

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
        if self.spreads and self.options["disk"]:
            return "disk"
        return ""

    @property
    def fused_attention(self) -> bool:
        return not self.options["no_inject_fused_attention"] and not self.why_no_fused_attention

    @property
    def knows_mlp(self) -> bool:
        return self.about.text.get("model_type") in _FUSED

    @property
    def fused_mlp(self) -> bool:
        return self.triton and self.knows_mlp and not self.options["no_inject_fused_mlp"]

    # -- the rest -----------------------------------------------------------------------------------------------------

    @property
    def tokenizer_is_fast(self) -> bool:
        """Whether transformers has no other for it than the one in tokenizer.json."""
        return str(_json(self.path / "tokenizer_config.json").get("tokenizer_class", "")).endswith("Fast")


def arguments(path: Path, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    """The calls that load `path`, in order: exactly what is passed, less the libraries' defaults."""
    plan = Plan(path, options, machine)
    trusted = bool(options["trust_remote_code"]) and not code_elsewhere(path)
    exllama, exllamav2 = plan.exllamas
    return {
        TOKENIZER: {
            "pretrained_model_name_or_path": str(path),
            "trust_remote_code": trusted,
            "local_files_only": True,
            "use_fast": not options["no_use_fast"],
        },
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
            "trust_remote_code": trusted,
            "local_files_only": True,
        },
        **({KERNEL: {"dtype": plan.dtype}} if plan.quick else {}),
    }


def _placement(plan: Plan) -> dict[str, Json]:
    if not plan.spreads:
        return {"device_map": {"": "cpu" if plan.on_cpu else 0}}
    args: dict[str, Json] = {"device_map": "auto", "max_memory": plan.limits}
    if plan.options["disk"]:
        args["offload_folder"] = "cache/offload"  # a folder of its own in there for each worker
    return args


def _weights(path: Path, suffix: str) -> list[Path]:
    return sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith(_NOT_WEIGHTS))


def _whole(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
