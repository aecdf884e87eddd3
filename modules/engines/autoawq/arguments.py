"""From load options to autoawq's calls: pure, so that it can be shown and tested without the package.

What stands here as JSON becomes Python in `autoawq_loading`: the names of dtypes torch's, and the numbers in
`max_memory` device numbers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.errors import Words
from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER, Machine
from modules.engines.legacy.arguments import SUFFIXES, LegacyPlan, read_json, weights
from modules.options.option import Value

CONFIG, LOAD = "AwqConfig", "AutoAWQForCausalLM.from_quantized"
KERNEL = "torch.ops.aten._weight_int4pack_mm_for_cpu"
"""What computes on a CPU: PyTorch's own kernel for weights of 4 bits."""
USUAL_GROUP = 128
_INDICES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
_PACKAGES = {"gemv": "awq_ext", "gemv_fast": "awq_v2_ext", "marlin": "marlin_cuda"}
"""What each version but "gemm" needs of autoawq-kernels, which are for GPUs."""
_FUSING = ("awq_ext", "flash_attn")
COMPILED = ("triton", *_PACKAGES.values())


class Plan(LegacyPlan):
    @cached_property
    def said(self) -> dict[str, Any]:
        """What the model's files say of its quantisation, in config.json's words; old ones had a file of their own."""
        within = self.about.config.get("quantization_config")
        if isinstance(within, dict):
            return within
        beside = read_json(self.path / "quant_config.json")
        return {**beside, "bits": beside.get("w_bit"), "group_size": beside.get("q_group_size")}

    @property
    def bits(self) -> int:
        return int(self.said.get("bits") or 4)

    @property
    def version(self) -> str:
        """How the weights lie in the file, and so what must compute with them."""
        return str(self.said.get("version") or "gemm").lower()

    @property
    def config(self) -> dict[str, Json]:
        zero_point = self.said.get("zero_point")
        return {
            "quant_method": "awq",
            "w_bit": self.bits,
            "q_group_size": int(self.said.get("group_size") or USUAL_GROUP),
            "zero_point": True if zero_point is None else bool(zero_point),
            "version": self.version,
            "modules_to_not_convert": self.said.get("modules_to_not_convert"),
        }

    @property
    def why_not(self) -> Words | None:
        """What makes it impossible here, before anything is read."""
        if self.bits != 4:
            return {
                "en": f"its weights have {self.bits} bits, and AutoAWQ knows 4 only.",
                "zh": f"其权重为 {self.bits} 位，而 AutoAWQ 只支持 4 位。",
            }
        if self.version != "gemm" and self.version not in _PACKAGES:
            return {
                "en": f"its weights are of the version {self.version}, which AutoAWQ 0.2.9 does not know.",
                "zh": f"其权重格式为 {self.version}，AutoAWQ 0.2.9 不支持。",
            }
        needed = _PACKAGES.get(self.version, "")
        if needed and self.on_cpu:
            return {
                "en": f"its weights are of the version {self.version}, which needs a GPU. "
                "Take the model in the version gemm: that one runs on the CPU too.",
                "zh": f"其权重格式为 {self.version}，需要 GPU。请改用 gemm 格式的模型，它也能在 CPU 上运行。",
            }
        if needed and needed not in self.machine.packages:
            return {
                "en": f"its weights are of the version {self.version}, which needs {needed} of autoawq-kernels. "
                "Take the model in the version gemm, or install that package.",
                "zh": f"其权重格式为 {self.version}，需要 autoawq-kernels 中的 {needed}。"
                "请改用 gemm 格式的模型，或安装该软件包。",
            }
        return None

    # -- the context --------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Never more than the model knows: nothing here stretches its positions."""
        wanted, own = int(self.options["max_seq_len"]), self.about.own_context
        return min(wanted, own) if wanted else own

    # -- fused layers -------------------------------------------------------------------------------------------------

    @property
    def missing_for_fusing(self) -> list[str]:
        return [each for each in _FUSING if each not in self.machine.packages]

    @property
    def fused(self) -> bool:
        """A fused layer stays where it was made: nothing moves it from main memory to a GPU and back."""
        wanted = not self.options["no_inject_fused_attention"]
        return wanted and not self.on_cpu and not self.spreads and not self.missing_for_fusing

    # -- files --------------------------------------------------------------------------------------------------------

    @property
    def filename(self) -> str:
        """The file of weights or of their index: by the usual names, else the first one of the first kind."""
        usual = next((name for name in _INDICES if (self.path / name).is_file()), "")
        others = (file.name for suffix in SUFFIXES for file in weights(self.path, suffix))
        return usual or next(others, "")


def arguments(path: Path, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    """The calls that load `path`, in order: exactly what is passed, less the libraries' defaults."""
    plan = Plan(path, options, machine)
    calls: dict[str, Json] = {
        TOKENIZER: plan.tokenizer,
        CONFIG: plan.config,
        LOAD: {
            "quant_path": str(path),
            "quant_filename": plan.filename,
            "max_seq_len": plan.context + plan.fused,  # fused layers begin to forget once their own caches are full
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
