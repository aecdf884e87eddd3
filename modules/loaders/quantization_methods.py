"""Quantization methods that Transformers reads by itself or with a package of their own, and what is missing for one.

GPTQ, AWQ and EXL2 are formats with loaders of their own: see `loaders.registry`.

Source: the quantizers of transformers 5.23, their `validate_environment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.core.errors import Words
from modules.loaders.availability import has_nvidia_gpu, is_installed
from modules.system.format_errors import quoted


@dataclass(frozen=True)
class Method:
    """Import names of the `packages` needed, the command to install them, and whether only NVIDIA GPUs compute it."""

    packages: tuple[str, ...] = ()
    install: str = ""
    needs_gpu: bool = False


METHODS: Mapping[str, Method] = {
    # On a machine that cannot compute with these, transformers converts the weights to bfloat16 during the load.
    **dict.fromkeys(("fp8", "mxfp8", "mxfp4", "metal", "bitnet", "gemma"), Method()),
    "bitsandbytes": Method(("bitsandbytes",), "pip install -r requirements.txt"),
    "compressed-tensors": Method(("compressed_tensors",), 'pip install "compressed-tensors>=0.15"'),
    "aqlm": Method(("aqlm",), 'pip install "aqlm[gpu,cpu]"'),
    "auto-round": Method(("auto_round",), 'pip install "auto-round>=0.5"'),
    "quanto": Method(("optimum.quanto",), "pip install optimum-quanto"),
    "quark": Method(("quark",), "pip install amd-quark"),
    "fouroversix": Method(("fouroversix",), "pip install fouroversix --no-build-isolation"),
    "sinq": Method(("sinq",), "pip install sinq"),
    "torchao": Method(("torchao",), "pip install torchao"),
    "hqq": Method(("hqq",), "pip install hqq", needs_gpu=True),
    "eetq": Method(("kernels",), "pip install kernels", needs_gpu=True),
    "fbgemm_fp8": Method(("fbgemm_gpu",), "pip install fbgemm-gpu", needs_gpu=True),
    "fp_quant": Method(("fp_quant",), "pip install fp_quant", needs_gpu=True),
    "higgs": Method(("flute", "fast_hadamard_transform"), "pip install flute-kernel fast_hadamard_transform", True),
    "spqr": Method(("spqr_quant",), 'pip install "spqr_quant[gpu]"', needs_gpu=True),
    "vptq": Method(("vptq",), "pip install vptq", needs_gpu=True),
}
"""By the `quant_method` of config.json. Not among them is nvfp4, of which transformers reads no finished weights."""


def missing_for_method(name: str, has_own_code: bool = False) -> Words | None:
    """Return why weights of a quantization method cannot be loaded on this machine, and what to do; None if they can.

    A model with code of its own may bring an unknown method along.
    """
    method = METHODS.get(name)
    if method is None:
        return None if has_own_code else _unknown(name)
    if method.needs_gpu and not has_nvidia_gpu():
        return {
            "en": f"its quantization ({name}) needs an NVIDIA GPU with CUDA, and none was found. "
            "Get this model as GGUF.",
            "zh": f"其量化方法（{name}）需要支持 CUDA 的 NVIDIA 显卡，但未检测到。请改用此模型的 GGUF 版本。",
        }
    missing = [package for package in method.packages if not is_installed(package)]
    if not missing:
        return None
    names = ", ".join(missing)
    return {
        "en": f"its quantization ({name}) needs a package that is not installed: {names}. To install: {method.install}",
        "zh": f"其量化方法（{name}）需要尚未安装的软件包 {names}。安装命令：{method.install}",
    }


def _unknown(name: str) -> Words:
    return {
        "en": f"Transformers does not read its quantization ({quoted(name)}). Get this model as GGUF, or unquantized.",
        "zh": f"Transformers 不支持其量化方法（{quoted(name, 'zh')}）。请改用此模型的 GGUF 版本或未量化的版本。",
    }
