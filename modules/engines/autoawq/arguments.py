"""Translate load options into calls of autoawq, without importing it.

The calls are JSON, so that they can be shown and tested. `autoawq.build` turns the names of dtypes into torch dtypes,
and the keys of `max_memory` back into device numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.errors import Words
from modules.core.events import Json
from modules.engines.hf.arguments import Environment
from modules.engines.legacy.arguments import SUFFIXES, LegacyPlan, read_json, weight_files
from modules.formats.rope_parameters import rope_parameters
from modules.options.option import Value

CONFIG, LOAD = "AwqConfig", "AutoAWQForCausalLM.from_quantized"
KERNEL = "torch.ops.aten._weight_int4pack_mm_for_cpu"
"""The kernel for a CPU: PyTorch's own for 4-bit weights."""
DEFAULT_GROUP_SIZE = 128
_WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_KERNEL_PACKAGES = {"gemv": "awq_ext", "gemv_fast": "awq_v2_ext", "marlin": "marlin_cuda"}
"""The part of autoawq-kernels that each weight format except "gemm" needs. All of them run on GPUs only."""
_FUSION_PACKAGES = ("awq_ext", "flash_attn")
COMPILED_PACKAGES = ("triton", *_KERNEL_PACKAGES.values())


def context_length(options: Mapping[str, Value], own: int) -> int:
    """Return the context length in tokens: at most the model's `own`, as nothing here scales RoPE."""
    wanted = int(options["max_seq_len"])
    return min(wanted, own) if wanted else own


class Plan(LegacyPlan):
    @cached_property
    def quantization(self) -> dict[str, Any]:
        """Return the model's quantization, by the keys of config.json; old models have a file of their own for it."""
        config = self.model_config.fields.get("quantization_config")
        if isinstance(config, dict):
            return config
        file = read_json(self.path / "quant_config.json")
        return {**file, "bits": file.get("w_bit"), "group_size": file.get("q_group_size")}

    @property
    def bits(self) -> int:
        return int(self.quantization.get("bits") or 4)

    @property
    def version(self) -> str:
        """Return the format of the packed weights, which decides what kernels can compute with them."""
        return str(self.quantization.get("version") or "gemm").lower()

    @property
    def awq_config(self) -> dict[str, Json]:
        zero_point = self.quantization.get("zero_point")
        return {
            "quant_method": "awq",
            "w_bit": self.bits,
            "q_group_size": int(self.quantization.get("group_size") or DEFAULT_GROUP_SIZE),
            "zero_point": True if zero_point is None else bool(zero_point),
            "version": self.version,
            "modules_to_not_convert": self.quantization.get("modules_to_not_convert"),
        }

    @cached_property
    def incompatibility(self) -> Words | None:
        """Return why AutoAWQ cannot load the model in this environment, before any weights are read."""
        if (files := super().incompatibility) is not None:
            return files
        if self.bits != 4:
            return {
                "en": f"its weights have {self.bits} bits, and AutoAWQ supports 4 only.",
                "zh": f"其权重为 {self.bits} 位，而 AutoAWQ 只支持 4 位。",
            }
        if self.version != "gemm" and self.version not in _KERNEL_PACKAGES:
            return {
                "en": f"its weights are in the format {self.version}, which AutoAWQ 0.2.9 does not support.",
                "zh": f"其权重格式为 {self.version}，AutoAWQ 0.2.9 不支持。",
            }
        needed = _KERNEL_PACKAGES.get(self.version, "")
        if needed and self.on_cpu:
            return {
                "en": f"its weights are in the format {self.version}, which needs a GPU. "
                "Get the model in the format gemm, which runs on the CPU, too.",
                "zh": f"其权重格式为 {self.version}，需要 GPU。请改用 gemm 格式的模型，它也能在 CPU 上运行。",
            }
        if needed and needed not in self.environment.packages:
            return {
                "en": f"its weights are in the format {self.version}, which needs {needed} from autoawq-kernels. "
                "Get the model in the format gemm, or install that package.",
                "zh": f"其权重格式为 {self.version}，需要 autoawq-kernels 中的 {needed}。"
                "请改用 gemm 格式的模型，或安装该软件包。",
            }
        return None

    # -- the context --------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        return context_length(self.options, self.model_config.max_context)

    # -- fused layers -------------------------------------------------------------------------------------------------

    @property
    def missing_for_fusion(self) -> list[str]:
        return [name for name in _FUSION_PACKAGES if name not in self.environment.packages]

    @property
    def scales_rope(self) -> bool:
        """Whether the model scales RoPE, which fused layers would not: they know its base only."""
        return any(rope["rope_type"] != "default" for rope in rope_parameters(self.model_config.text).values())

    @property
    def fused(self) -> bool:
        """Whether layers are fused. They then stay on the device where they were made: nothing offloads them."""
        wanted = not self.options["no_inject_fused_attention"]
        possible = not self.on_cpu and not self.spread and not self.missing_for_fusion
        return wanted and possible and not self.scales_rope

    # -- files --------------------------------------------------------------------------------------------------------

    @property
    def filename(self) -> str:
        """Return the weight file or its index: one with a usual name, else the first by suffix."""
        usual = next((name for name in _WEIGHT_FILES if (self.path / name).is_file()), "")
        others = (file.name for suffix in SUFFIXES for file in weight_files(self.path, suffix))
        return usual or next(others, "")


def arguments(path: Path, options: Mapping[str, Value], environment: Environment) -> dict[str, Json]:
    """Return the calls that load `path`, in order, with exactly the arguments that differ from the defaults."""
    plan = Plan(path, options, environment)
    calls: dict[str, Json] = {
        **plan.tokenizer,
        **plan.config_changes,
        CONFIG: plan.awq_config,
        LOAD: {
            "quant_path": str(path),
            "quant_filename": plan.filename,
            "max_seq_len": plan.context + plan.fused,  # fused layers drop tokens once their own caches are full
            "trust_remote_code": plan.trusted,
            "fuse_layers": plan.fused,
            "batch_size": 1,
            "torch_dtype": "float16",
            "safetensors": ".safetensors" in plan.filename,
            **_placement(plan),
        },
    }
    if plan.on_cpu:
        calls[KERNEL] = {"dtype": "bfloat16"}
    return calls


def _placement(plan: Plan) -> dict[str, Json]:
    args: dict[str, Json] = {"device_map": plan.device_map}
    if plan.limited:
        args["max_memory"] = plan.limits
    return args
