"""From load options to transformers' calls: pure, so that it can be shown and tested without the libraries.

What stands here as JSON becomes Python in `hf_model`: names of dtypes become torch's, `quantization_config` an object
of the class that its `quant_method` belongs to, and the numbers in `max_memory` are device numbers again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.hf.rope import ROPELESS, Rope, stretched
from modules.formats.remote_code import code_elsewhere
from modules.options.option import Value, size_in_bytes

TOKENIZER = "AutoTokenizer.from_pretrained"
CAUSAL, SEQ2SEQ, IMAGES = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"
USUAL_CONTEXT = 2048  # where a model does not tell
_PACKED = ("gptq", "awq")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True)
class Machine:
    """What there is to compute with: the free bytes of each GPU (0: unknown), those of main memory, and installed
    packages; whether nvcc is missing, which compiles for NVIDIA's GPUs and which a PyTorch from pip does not bring."""

    gpus: tuple[int, ...] = ()
    memory: int = 0
    packages: frozenset[str] = frozenset()
    lacks_nvcc: bool = False


class About:
    """What the model's config.json says, as far as loading depends on it. Without one, nothing."""

    def __init__(self, path: Path) -> None:
        try:
            found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # transformers will say it better
            found = {}
        self.config: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def text(self) -> Mapping[str, Any]:
        """What it says of its language model, where that is one part of several."""
        part = self.config.get("text_config")
        return part if isinstance(part, dict) else self.config

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """What it says of how its weights are quantised already; nothing if they are not."""
        return self.config.get("quantization_config") or {}

    @property
    def quantised(self) -> str:
        """The method of that ("gptq", "awq", …) or ""."""
        return str(self.quantisation.get("quant_method", ""))

    @property
    def bits(self) -> int:
        return int(self.quantisation.get("bits", 4))

    @property
    def auto_class(self) -> str:
        """The one of transformers' Auto classes that loads it so that it can write text."""
        own = self.config.get("auto_map") or {}
        if self.config.get("is_encoder_decoder"):
            return SEQ2SEQ
        for name in (CAUSAL, SEQ2SEQ, "AutoModel"):
            if name in own:
                return name
        named = self.config.get("architectures") or [""]
        return IMAGES if str(named[0]).endswith("ForConditionalGeneration") else CAUSAL

    @property
    def ropeless(self) -> bool:
        """Whether its positions are none that could be turned or squeezed."""
        return self.text.get("model_type") in ROPELESS

    @property
    def own_context(self) -> int:
        """In tokens."""
        return next((int(self.text[key]) for key in _CONTEXT_KEYS if self.text.get(key)), USUAL_CONTEXT)

    def context_length(self, options: Mapping[str, Value]) -> int:
        """In tokens, with what the options add to it."""
        own = self.own_context
        return own if self.ropeless else int(own * rope_of(self, options).stretch)


def arguments(path: Path, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    """The calls that load `path`, in order: exactly what is passed, less the libraries' defaults."""
    about = About(path)
    trusted = bool(options["trust_remote_code"]) and not code_elsewhere(path)
    common = {"pretrained_model_name_or_path": str(path), "trust_remote_code": trusted, "local_files_only": True}
    return {
        TOKENIZER: common,
        f"{about.auto_class}.from_pretrained": {
            **common,
            "dtype": _dtype(about, options, machine),
            **_placement(about, options, machine),
            **_quantisation(about, options, machine),
            **_attention(options, machine),
            **_positions(about, options),
            "weights_only": True,
        },
    }


def model_call(calls: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    """Of `arguments`: the Auto class and what its `from_pretrained` is given."""
    name = next(each for each in calls if each != TOKENIZER)
    return name.partition(".")[0], calls[name]


def _on_cpu(options: Mapping[str, Value], machine: Machine) -> bool:
    return bool(options["cpu"]) or not machine.gpus


def _quantises(about: About, options: Mapping[str, Value]) -> bool:
    return bool(options["load_in_4bit"] or options["load_in_8bit"]) and not about.quantised


def is_packed(about: About, options: Mapping[str, Value], machine: Machine) -> bool:
    """Whether its layers are those of gptqmodel, on a CPU."""
    return about.quantised in _PACKED and _on_cpu(options, machine)


def is_packed_on_gpus(about: About, options: Mapping[str, Value], machine: Machine) -> bool:
    return about.quantised in _PACKED and not _on_cpu(options, machine)


def takes_bf16(about: About, options: Mapping[str, Value], machine: Machine) -> bool:
    """Whether `bf16` and `cpu` have a say in the numbers it calculates with."""
    return not (_quantises(about, options) or about.quantised) or is_packed(about, options, machine)


def _dtype(about: About, options: Mapping[str, Value], machine: Machine) -> str:
    """Of what is not quantised.

    A CPU calculates in float16 slowly. Beside weights that bitsandbytes has made 4 or 8 bits, bfloat16 is also a little
    faster there than float32, and takes half the memory; beside those of gptqmodel it is as fast, and the answers are
    three times as far from what the weights say (see `hf_packed`).
    """
    free = takes_bf16(about, options, machine)
    if not _on_cpu(options, machine):
        return "bfloat16" if options["bf16"] and free else "float16"
    if options["cpu"] and not about.quantised:
        return "float32"
    return "bfloat16" if not free or (options["bf16"] and not options["cpu"]) else "float32"


def stays_whole(about: About, options: Mapping[str, Value], machine: Machine) -> bool:
    """Whether no part of it can be left on disk: what bitsandbytes makes on a CPU is nowhere but in memory."""
    return _quantises(about, options) and _on_cpu(options, machine)


# -- where it goes -----------------------------------------------------------------------------------------------------


def _placement(about: About, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    on_cpu = _on_cpu(options, machine)
    if stays_whole(about, options, machine):
        return {"device_map": {"": "cpu"}}
    limited = bool(options["cpu_memory"] or (options["gpu_memory"] and not on_cpu))
    spreads = limited or options["disk"] or (not on_cpu and (options["auto_devices"] or _quantises(about, options)))
    args: dict[str, Json] = {"device_map": "auto" if spreads else {"": "cpu" if on_cpu else 0}}
    if limited:
        args["max_memory"] = memory_limits(options, machine, on_cpu)
    elif options["cpu"] and machine.gpus and spreads:
        args["max_memory"] = {"cpu": machine.memory}  # "auto" would take the GPUs
    if options["disk"]:
        args["offload_folder"] = "cache/offload"  # a folder of its own in there for each worker
    return args


def memory_limits(options: Mapping[str, Value], machine: Machine, on_cpu: bool) -> dict[str, int]:
    """accelerate uses no device that is not named here."""
    limits: dict[str, int] = {}
    if not on_cpu:
        given = [size_in_bytes(each) for each in re.split(r"[, ]+", str(options["gpu_memory"])) if each]
        sizes = given or [int(size * 0.9) for size in machine.gpus]
        limits |= {str(device): size for device, size in enumerate(sizes[: len(machine.gpus)])}
    limits["cpu"] = size_in_bytes(str(options["cpu_memory"])) if options["cpu_memory"] else machine.memory
    return limits


# -- how it is kept and computed ---------------------------------------------------------------------------------------


def uncompiled_kernel(about: About, options: Mapping[str, Value], machine: Machine) -> str:
    """The kernel of gptqmodel's that is asked for because nvcc need not compile it; "" where the choice is its own.

    Left to itself it takes Marlin's where the GPU can, which without nvcc is an error once the weights are read. It is
    named here, as among all that can train ("auto_trainable") it would compile ExLlamaV2's, to find that this cannot.
    """
    if not is_packed_on_gpus(about, options, machine):
        return ""
    triton = "triton" in machine.packages
    if about.quantised == "gptq" and (machine.lacks_nvcc or options["disable_exllama"] or options["disable_exllamav2"]):
        return "gptq_triton" if triton and about.bits in (2, 4, 8) else "gptq_torch"
    told = about.quantisation
    if about.quantised == "awq" and machine.lacks_nvcc and str(told.get("version") or "gemm").lower() == "gemm":
        triton = triton and about.bits == 4 and told.get("group_size", 128) in (-1, 32, 64, 128)
        return "gemm_triton" if triton else "torch_awq"
    return ""  # also AWQ's rarer formats, which no other kernels can read


def _quantisation(about: About, options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    if kernel := uncompiled_kernel(about, options, machine):
        return {"quantization_config": {"quant_method": about.quantised, "bits": about.bits, "backend": kernel}}
    if not _quantises(about, options):
        return {}
    config: dict[str, Json] = {"quant_method": "bitsandbytes"}
    if options["load_in_4bit"]:
        config |= {
            "load_in_4bit": True,
            "bnb_4bit_compute_dtype": options["compute_dtype"],
            "bnb_4bit_quant_type": options["quant_type"],
            "bnb_4bit_use_double_quant": bool(options["use_double_quant"]),
        }
    else:
        config["load_in_8bit"] = True
    if _placement(about, options, machine)["device_map"] == "auto":
        config["llm_int8_enable_fp32_cpu_offload"] = True  # of 4 bits too; else it refuses what the GPU cannot hold
    return {"quantization_config": config}


def _attention(options: Mapping[str, Value], machine: Machine) -> dict[str, Json]:
    if options["use_eager_attention"]:
        return {"attn_implementation": "eager"}
    if options["use_flash_attention_2"] and not _on_cpu(options, machine) and "flash_attn" in machine.packages:
        return {"attn_implementation": "flash_attention_2"}
    return {}


def rope_of(about: About, options: Mapping[str, Value]) -> Rope:
    return stretched(
        about.text,
        base=float(options["rope_freq_base"]),
        alpha=float(options["alpha_value"]),
        compression=float(options["compress_pos_emb"]),
    )


def _positions(about: About, options: Mapping[str, Value]) -> dict[str, Json]:
    if about.ropeless:
        return {}
    rope = rope_of(about, options)
    if rope.parameters is None:
        return {}
    if about.text is about.config:
        return {"rope_parameters": rope.parameters}
    return {"text_config": {**about.text, "rope_parameters": rope.parameters}}
