"""Translate load options into Transformers calls, without importing Transformers.

The calls are JSON, so that they can be shown and tested. `hf.model` turns the names of dtypes into torch dtypes,
`quantization_config` into the class that its `quant_method` names, and the keys of `max_memory` back into device
numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.hf.rope import NO_ROPE_MODEL_TYPES, RopeScaling, scaled_rope
from modules.formats.embedding import PIPELINE, RANK, checkpoint_task
from modules.formats.model_shape import CONTEXT_KEYS
from modules.formats.remote_code import class_in_other_repository
from modules.options.option import Value, size_in_bytes

TOKENIZER = "AutoTokenizer.from_pretrained"
ENCODER, RANKER = "AutoModel", "AutoModelForSequenceClassification"
CAUSAL, SEQ2SEQ, IMAGES = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"
DEFAULT_CONTEXT = 2048
"""Context length, in tokens, of a model that does not state its own."""
_GPU_SHARE = 0.9
"""Share of a GPU's free memory that weights may take where no size is set."""
_GPTQMODEL_METHODS = ("gptq", "awq")

Options = Mapping[str, Value]


@dataclass(frozen=True)
class Environment:
    """The memory and the packages of the machine that computes a model.

    `gpus` are the free bytes of each GPU (0: unknown), `memory` the bytes of main memory, `packages` the installed
    optional packages. nvcc compiles for NVIDIA GPUs; PyTorch's wheels do not contain it.
    """

    gpus: tuple[int, ...] = ()
    memory: int = 0
    packages: frozenset[str] = frozenset()
    lacks_nvcc: bool = False


class ModelConfig:
    """A model's config.json, as far as loading depends on it. A missing or invalid file counts as empty."""

    def __init__(self, path: Path) -> None:
        try:
            fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # Transformers reports it better
            fields = {}
        self.fields: dict[str, Any] = fields if isinstance(fields, dict) else {}
        files = {name for name in (PIPELINE,) if (path / name).is_file()}
        self.task = checkpoint_task(self.fields, files)
        """What `formats.embedding` recognizes; "" for a model that generates text."""

    @property
    def text(self) -> Mapping[str, Any]:
        """Return the fields of the language model, which may be one part of several."""
        part = self.fields.get("text_config")
        return part if isinstance(part, dict) else self.fields

    @property
    def quantization(self) -> Mapping[str, Any]:
        """Return how the stored weights are quantized; empty if they are not."""
        return self.fields.get("quantization_config") or {}

    @property
    def quantization_method(self) -> str:
        """Return "gptq", "awq" and so on, or "" for weights that are not quantized."""
        return str(self.quantization.get("quant_method", ""))

    @property
    def bits(self) -> int:
        return int(self.quantization.get("bits", 4))

    @property
    def auto_class(self) -> str:
        """Return the Transformers Auto class that loads the model for its task."""
        if self.task:
            return RANKER if self.task == RANK else ENCODER
        remote_classes = self.fields.get("auto_map") or {}
        if self.fields.get("is_encoder_decoder"):
            return SEQ2SEQ
        for name in (CAUSAL, SEQ2SEQ, "AutoModel"):
            if name in remote_classes:
                return name
        architectures = self.fields.get("architectures") or [""]
        return IMAGES if str(architectures[0]).endswith("ForConditionalGeneration") else CAUSAL

    @property
    def lacks_rope(self) -> bool:
        """Whether the position encoding has no RoPE parameters that could be changed."""
        return self.text.get("model_type") in NO_ROPE_MODEL_TYPES

    @property
    def is_matryoshka(self) -> bool:
        """Whether the vectors of an embedding model may be cut, by keys that some makers write."""
        return bool(self.fields.get("matryoshka_dimensions") or self.fields.get("is_matryoshka"))

    @property
    def max_context(self) -> int:
        """Return the context length in tokens without RoPE scaling by options."""
        return next((int(self.text[key]) for key in CONTEXT_KEYS if self.text.get(key)), DEFAULT_CONTEXT)

    def context_length(self, options: Options) -> int:
        """Return the context length in tokens with RoPE scaling by `options`."""
        if self.lacks_rope:
            return self.max_context
        return int(self.max_context * rope_scaling(self, options).context_factor)


def arguments(path: Path, options: Options, environment: Environment) -> dict[str, Json]:
    """Return the calls that load `path`, in order, with exactly the arguments that differ from the defaults."""
    config = ModelConfig(path)
    trusted = bool(options["trust_remote_code"]) and not class_in_other_repository(path)
    common = {"pretrained_model_name_or_path": str(path), "trust_remote_code": trusted, "local_files_only": True}
    on_cpu = runs_on_cpu(options, environment.gpus)
    return {
        TOKENIZER: common,
        f"{config.auto_class}.from_pretrained": {
            **common,
            "dtype": compute_dtype(options, config.quantization_method, on_cpu),
            **_placement(config, options, environment),
            **_quantization(config, options, environment),
            **_attention(options, environment),
            **_positions(config, options),
            "weights_only": True,
        },
    }


def model_call(calls: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    """Return the Auto class and the arguments of its `from_pretrained`, out of what `arguments` returned."""
    name = next(name for name in calls if name != TOKENIZER)
    return name.partition(".")[0], calls[name]


# -- what the options mean: the memory estimate reads these, too -------------------------------------------------------
# `method` is how the stored weights are quantized already, "" if they are not.


def runs_on_cpu(options: Options, gpus: Sequence[int]) -> bool:
    return bool(options.get("cpu")) or not gpus


def bits_on_load(options: Options, method: str) -> int:
    """Return the bits per weight to which bitsandbytes quantizes while loading: 4, 8, or 0 if it does not."""
    if method:
        return 0
    return 4 if options["load_in_4bit"] else 8 if options["load_in_8bit"] else 0


def allows_bf16(options: Options, method: str, on_cpu: bool) -> bool:
    """Whether the options `bf16` and `cpu` choose the compute dtype."""
    quantized = bool(method or bits_on_load(options, method))
    return not quantized or (on_cpu and method in _GPTQMODEL_METHODS)


def compute_dtype(options: Options, method: str, on_cpu: bool) -> str:
    """Return the dtype of the activations, and of weights that are not quantized.

    A CPU computes float16 slowly. Beside weights that bitsandbytes has quantized, bfloat16 is also a little faster
    there than float32 and takes half the memory. Beside weights of gptqmodel it is as fast, with errors three times as
    large (see `hf.gptqmodel`).
    """
    selectable = allows_bf16(options, method, on_cpu)
    if not on_cpu:
        return "bfloat16" if options["bf16"] and selectable else "float16"
    if options["cpu"] and not method:
        return "float32"
    return "bfloat16" if not selectable or (options["bf16"] and not options["cpu"]) else "float32"


def must_stay_in_memory(options: Options, method: str, on_cpu: bool) -> bool:
    """Whether nothing can be offloaded to disk, as with weights that bitsandbytes quantizes on a CPU."""
    return on_cpu and bits_on_load(options, method) > 0


def has_memory_limits(options: Options, on_cpu: bool) -> bool:
    return bool(options["cpu_memory"] or (options["gpu_memory"] and not on_cpu))


def is_spread(options: Options, method: str, on_cpu: bool) -> bool:
    """Whether accelerate distributes the layers over the devices, instead of one device taking all."""
    if must_stay_in_memory(options, method, on_cpu):
        return False
    if has_memory_limits(options, on_cpu) or options["disk"]:
        return True
    return not on_cpu and bool(options["auto_devices"] or bits_on_load(options, method))


def gpu_limits(options: Options, gpus: Sequence[int]) -> list[int]:
    """Return the bytes of weights that each GPU takes at most, given the free bytes of each, where layers are spread.

    Accelerate uses no GPU beyond the end of this list.
    """
    typed = [size_in_bytes(size) for size in re.split(r"[, ]+", str(options["gpu_memory"])) if size]
    return (typed or [int(free * _GPU_SHARE) for free in gpus])[: len(gpus)]


# -- placement ---------------------------------------------------------------------------------------------------------


def _placement(config: ModelConfig, options: Options, environment: Environment) -> dict[str, Json]:
    method, on_cpu = config.quantization_method, runs_on_cpu(options, environment.gpus)
    if must_stay_in_memory(options, method, on_cpu):
        return {"device_map": {"": "cpu"}}
    spread = is_spread(options, method, on_cpu)
    args: dict[str, Json] = {"device_map": "auto" if spread else {"": "cpu" if on_cpu else 0}}
    if has_memory_limits(options, on_cpu):
        args["max_memory"] = memory_limits(options, environment, on_cpu)
    elif options["cpu"] and environment.gpus and spread:
        args["max_memory"] = {"cpu": environment.memory}  # "auto" would take the GPUs
    if options["disk"]:
        args["offload_folder"] = "cache/offload"  # the worker makes a folder of its own in there
    return args


def memory_limits(options: Options, environment: Environment, on_cpu: bool) -> dict[str, int]:
    """Return accelerate's `max_memory`: bytes by device. It uses no device that is missing here."""
    limits = {} if on_cpu else {str(gpu): size for gpu, size in enumerate(gpu_limits(options, environment.gpus))}
    limits["cpu"] = size_in_bytes(str(options["cpu_memory"])) if options["cpu_memory"] else environment.memory
    return limits


# -- quantization, attention and positions -----------------------------------------------------------------------------


def uses_gptqmodel_on_cpu(config: ModelConfig, options: Options, environment: Environment) -> bool:
    return config.quantization_method in _GPTQMODEL_METHODS and runs_on_cpu(options, environment.gpus)


def uses_gptqmodel_on_gpus(config: ModelConfig, options: Options, environment: Environment) -> bool:
    return config.quantization_method in _GPTQMODEL_METHODS and not runs_on_cpu(options, environment.gpus)


def gptqmodel_kernel(config: ModelConfig, options: Options, environment: Environment) -> str:
    """Return the gptqmodel kernel to request because it needs no nvcc; "" leaves the choice to gptqmodel.

    By itself it takes Marlin's kernel where the GPU can run it, which fails without nvcc once the weights are read.
    The kernel has to be named: choosing among all that can train ("auto_trainable") would compile ExLlamaV2's first,
    only to find that it cannot.
    """
    if not uses_gptqmodel_on_gpus(config, options, environment):
        return ""
    if config.quantization_method == "gptq":
        return _gptq_kernel(config, options, environment)
    return _awq_kernel(config, environment) if environment.lacks_nvcc else ""


def _gptq_kernel(config: ModelConfig, options: Options, environment: Environment) -> str:
    if not (environment.lacks_nvcc or options["disable_exllama"] or options["disable_exllamav2"]):
        return ""
    return "gptq_triton" if "triton" in environment.packages and config.bits in (2, 4, 8) else "gptq_torch"


def _awq_kernel(config: ModelConfig, environment: Environment) -> str:
    """Return "" for the rarer AWQ formats, which no kernel can read without nvcc."""
    quantization = config.quantization
    if str(quantization.get("version") or "gemm").lower() != "gemm":
        return ""
    triton = "triton" in environment.packages and config.bits == 4
    return "gemm_triton" if triton and quantization.get("group_size", 128) in (-1, 32, 64, 128) else "torch_awq"


def _quantization(config: ModelConfig, options: Options, environment: Environment) -> dict[str, Json]:
    method = config.quantization_method
    if kernel := gptqmodel_kernel(config, options, environment):
        return {"quantization_config": {"quant_method": method, "bits": config.bits, "backend": kernel}}
    if not bits_on_load(options, method):
        return {}
    bitsandbytes: dict[str, Json] = {"quant_method": "bitsandbytes"}
    if options["load_in_4bit"]:
        bitsandbytes |= {
            "load_in_4bit": True,
            "bnb_4bit_compute_dtype": options["compute_dtype"],
            "bnb_4bit_quant_type": options["quant_type"],
            "bnb_4bit_use_double_quant": bool(options["use_double_quant"]),
        }
    else:
        bitsandbytes["load_in_8bit"] = True
    if is_spread(options, method, runs_on_cpu(options, environment.gpus)):
        # Despite its name it counts for 4 bits, too: without it, whatever does not fit on a GPU is an error.
        bitsandbytes["llm_int8_enable_fp32_cpu_offload"] = True
    return {"quantization_config": bitsandbytes}


def _attention(options: Options, environment: Environment) -> dict[str, Json]:
    if options["use_eager_attention"]:
        return {"attn_implementation": "eager"}
    installed = "flash_attn" in environment.packages
    if options["use_flash_attention_2"] and installed and not runs_on_cpu(options, environment.gpus):
        return {"attn_implementation": "flash_attention_2"}
    return {}


def rope_scaling(config: ModelConfig, options: Options) -> RopeScaling:
    return scaled_rope(
        config.text,
        base=float(options["rope_freq_base"]),
        alpha=float(options["alpha_value"]),
        compression=float(options["compress_pos_emb"]),
    )


def _positions(config: ModelConfig, options: Options) -> dict[str, Json]:
    if config.lacks_rope:
        return {}
    parameters = rope_scaling(config, options).parameters
    if parameters is None:
        return {}
    if config.text is config.fields:
        return {"rope_parameters": parameters}
    return {"text_config": {**config.text, "rope_parameters": parameters}}
