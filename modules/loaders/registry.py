"""The registry of loaders: one row per loader, with its formats, options, abilities and requirements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from modules.core.errors import UnknownLoader, Words
from modules.loaders.overlay import Overlay
from modules.loaders.server_samplers import SCHEMA, SERVER_SAMPLERS
from modules.options.load_exllamav2 import EXLLAMAV2
from modules.options.load_gptq_awq import AUTOAWQ, AUTOGPTQ
from modules.options.load_llamacpp import LLAMACPP, LLAMACPP_HF
from modules.options.load_remote import REMOTE
from modules.options.load_transformers import TRANSFORMERS
from modules.options.load_vllm import VLLM
from modules.options.option import Option, nearest

_LEGACY = Overlay("legacy", megabytes=250)
_GPTQ = Overlay("gptq", megabytes=23)
_VLLM_PACKAGES = Overlay("vllm", megabytes=1300)
_EXLLAMAV2_PACKAGES = Overlay("exllamav2", megabytes=7)
# Not in the main environment, so that the application can be used while llama.cpp compiles.
_LLAMACPP_PACKAGES = Overlay(
    "llamacpp", megabytes=37, compiled="llama-cpp-python", build_megabytes=700, title="llama.cpp", prepared=True
)

# A library of its own, so that every build of llama.cpp has it, and those that exist are not compiled again for it.
RPC = Overlay(
    "rpc", megabytes=1, compiled="llama-cpp-python", build_megabytes=100, title="llama.cpp RPC", extends="llamacpp"
)


@dataclass(frozen=True)
class Extra:
    """Packages that a loader needs for some of its `formats` only, from the main environment or else from `overlay`."""

    formats: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    overlay: Overlay | None = None


class Model(Protocol):
    """The facts about a model on disk that a loader depends on; a `ModelRecord` of the catalog is one."""

    @property
    def format(self) -> str: ...

    @property
    def architecture(self) -> str: ...

    @property
    def task(self) -> str: ...

    @property
    def defaults(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Loader:
    """One row of the registry: what a loader can load, how it is configured, and what it needs.

    Attributes:
        engine: Module whose `LOADER` loads models, in the worker.
        memory: Module that estimates the memory of a model, with the functions of `engines.memory.MemoryModel`; "" if
            the loader has no estimate.
        gpus: Which GPUs it can use: those that "torch" sees, or those that "llama.cpp" is compiled for.
        formats: Model formats, the preferred ones first.
        options: Keys of its load options, in the order of `--explain`.
        samplers: Keys of the generation parameters that its sampler implements.
        abilities: Any of "lora", "loras" (several at once), "train", "cfg", "parallel", "next" (candidates
            for the next token, before and after the samplers), "loglikelihoods" (of the tokens of a text),
            "embed" and "rank" (models of that task).
        packages: Import names of the packages it needs.
        install: Command that installs them, into `overlay` if there is one.
        overlay: Packages for its worker, if the main environment has other versions or none.
        aliases: Other names accepted by `--loader`.
        extras: Further packages for some of the formats.
        kernels: Compiled module that only NVIDIA GPUs run; built at the first load if it is not installed.
        binds_threads: Whether the engine has the operation `binds_threads`, which binds compute threads to cores.
        keeps_prompts: Whether its engines save prompts to files: the operation `keep_prompts`.
        reasons: By format, a sentence on what the loader is good for; shown where a loader is chosen.
        gptq_bits: Bits per weight of the GPTQ models that it can load; empty if it loads all.
        reason_unusual_bits: Replaces the reason for GPTQ models of other than 4 bits.
        architectures: Those that it recognizes, in lower case, where it treats any other as Llama; else empty.
        lora_engine: What applies its LoRAs: one of the engines of `formats.peft_features`; "" if it is none of them.
        elsewhere: Whether its models are in the memory of another server, and take none that we count.
        program: Command in PATH that does without the packages; "" if there is none.
        program_option: Key of the option that names such a command, which does without the packages as well.
        by_request: Whether all other loaders of a format come before it.
        refuses_early: Whether its engine knows of some loads that they would fail before others are unloaded for them.
    """

    name: str
    engine: str
    formats: tuple[str, ...]
    options: tuple[str, ...]
    samplers: frozenset[str]
    abilities: frozenset[str]
    packages: tuple[str, ...]
    install: str
    overlay: Overlay | None = None
    aliases: tuple[str, ...] = ()
    extras: tuple[Extra, ...] = ()
    kernels: str = ""
    binds_threads: bool = False
    keeps_prompts: bool = False
    memory: str = ""
    gpus: str = "torch"
    reasons: Mapping[str, Words] = field(default_factory=dict, hash=False)
    gptq_bits: frozenset[int] = frozenset()
    reason_unusual_bits: Words | None = field(default=None, hash=False)
    architectures: frozenset[str] = frozenset()
    lora_engine: str = ""
    elsewhere: bool = False
    program: str = ""
    program_option: str = ""
    by_request: bool = False
    refuses_early: bool = False

    def supports(self, model: Model) -> bool:
        """Whether it can load the model."""
        if model.format not in self.formats or (model.task and model.task not in self.abilities):
            return False
        return model.format != "gptq" or not self.gptq_bits or gptq_bits(model) in self.gptq_bits

    def recognizes(self, model: Model) -> bool:
        """Whether it knows the model's architecture; otherwise it treats the model as Llama."""
        architecture = model.architecture.lower()
        return not self.architectures or not architecture or architecture in self.architectures

    def reason_for(self, model: Model) -> Words | None:
        """Return what the loader is good for with this model; None if it cannot load it."""
        if not self.supports(model):
            return None
        if self.reason_unusual_bits is not None and model.format == "gptq" and gptq_bits(model) != USUAL_BITS:
            return self.reason_unusual_bits
        return self.reasons.get(model.format)


USUAL_BITS = 4


def gptq_bits(model: Model) -> int:
    """Return the bits per weight of a GPTQ model; 4 where its files do not say it."""
    bits = model.defaults.get("wbits")
    return bits if isinstance(bits, int) and bits else USUAL_BITS


def _keys(table: Iterable[Option]) -> tuple[str, ...]:
    return tuple(option.key for option in table)


_SHARED_SAMPLERS = frozenset(
    {
        *("temperature", "top_p", "min_p", "top_k", "typical_p", "xtc_threshold", "xtc_probability", "seed"),
        *("repetition_penalty", "repetition_penalty_range", "frequency_penalty", "presence_penalty"),
        *("dynamic_temperature", "dynatemp_low", "dynatemp_high", "dynatemp_exponent"),
        *("mirostat_mode", "mirostat_tau", "mirostat_eta"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers"),
        *("ban_eos_token", "min_length", "custom_token_bans", "grammar_string"),
        "logit_bias",  # a parameter of the API, without a widget
    }
)
_LLAMACPP_SAMPLERS = _SHARED_SAMPLERS | {"top_n_sigma", "prompt_lookup_num_tokens"}
_EXLLAMAV2_SAMPLERS = _SHARED_SAMPLERS | {
    *("tfs", "top_a", "smoothing_factor", "temperature_last", "do_sample"),
    *("guidance_scale", "negative_prompt", "add_bos_token", "skip_special_tokens"),
}
_HF_SAMPLERS = (
    _LLAMACPP_SAMPLERS
    | _EXLLAMAV2_SAMPLERS
    | {
        *("epsilon_cutoff", "eta_cutoff", "smoothing_curve", "sampler_priority"),
        *("encoder_repetition_penalty", "no_repeat_ngram_size"),
    }
)

_EXLLAMAV2_ARCHITECTURES = frozenset(
    {
        *("llama", "mistral", "mixtral", "mistral3", "llava", "yi", "orion", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl"),
        *("qwen2_5_vl", "gemma", "gemma2", "gemma3", "gemmoe", "starcoder2", "cohere", "cohere2", "dbrx", "phi3"),
        *("granite", "gpt_bigcode", "gpt2", "minicpm", "internlm2", "index", "glm4"),
    }
)
"""Types of models that ExLlamaV2 0.3.2, its last version, distinguishes (architecture.py).

It treats all others as Llama, which some are in all but name.
"""

_REASON_PLAIN: Words = {
    "en": "full-precision weights; can be quantized to 4 or 8 bits during the load; LoRAs and all samplers work.",
    "zh": "全精度权重；加载时可量化为 4 或 8 位，支持 LoRA 和全部采样器。",
}
_REASON_GPTQMODEL: Words = {
    "en": "reads it through gptqmodel: fast on the CPU too, and a LoRA can be trained on it. "
    "On a CPU the first load compiles a kernel, which takes minutes and needs g++.",
    "zh": "通过 gptqmodel 读取：在 CPU 上也较快，并可训练 LoRA。在 CPU 上首次加载需用 g++ 编译内核，耗时数分钟。",
}
_REASON_GPTQMODEL_UNUSUAL_BITS: Words = {
    "en": "reads it through gptqmodel, and a LoRA can be trained on it. "
    "On a CPU gptqmodel is fast with 4 bits only: for 8 bits AutoGPTQ is faster.",
    "zh": "通过 gptqmodel 读取，并可训练 LoRA。在 CPU 上 gptqmodel 仅对 4 位较快；8 位模型用 AutoGPTQ 更快。",
}
_REASON_GPTQMODEL_AWQ: Words = {
    "en": "reads it through gptqmodel; the model was made with AutoAWQ. "
    "On a CPU the first load compiles a kernel, which takes minutes and needs g++.",
    "zh": "通过 gptqmodel 读取；该模型由 AutoAWQ 制作。在 CPU 上首次加载需用 g++ 编译内核，耗时数分钟。",
}
_REASON_AUTOGPTQ: Words = {
    "en": "the package it was made with; also runs on a CPU, and loads old models without metadata.",
    "zh": "制作该模型所用的软件包；也可在 CPU 上运行，并支持缺少元数据的旧模型。",
}
_REASON_AUTOAWQ: Words = {
    "en": "the package it was made with; fast on a GPU, and usable on a CPU with PyTorch's own kernel.",
    "zh": "制作该模型所用的软件包；在 GPU 上较快，在 CPU 上借助 PyTorch 自带的内核也可使用。",
}
_REASON_EXLLAMAV2: Words = {
    "en": "the fastest on NVIDIA GPUs, with its own sampler and several requests at once; needs CUDA.",
    "zh": "在 NVIDIA 显卡上最快，使用自带采样器，可同时处理多个请求；需要 CUDA。",
}
_REASON_EXLLAMAV2_HF: Words = {
    "en": "nearly as fast as ExLlamav2, with the samplers of transformers and CFG; needs CUDA.",
    "zh": "速度接近 ExLlamav2，使用 transformers 的采样器并支持 CFG；需要 CUDA。",
}
_REASON_LLAMACPP: Words = {
    "en": "made for this format, on CPU and GPU; several people can chat at once.",
    "zh": "专为此格式设计，CPU 和 GPU 均可运行，多人可同时对话。",
}
_REASON_LLAMACPP_HF: Words = {
    "en": "the same engine with the samplers and the tokenizer of transformers: for CFG and further samplers.",
    "zh": "同一引擎，改用 transformers 的采样器和词符化器：用于 CFG 和更多采样器。",
}
_REASON_REMOTE: Words = {
    "en": "this server generates; what it cannot do is not shown once the model is loaded.",
    "zh": "由该服务器生成；模型加载后，服务器不支持的功能不再显示。",
}
_REASON_VLLM: Words = {
    "en": "for many users at once and for several GPUs or machines; starts slowly and fills the GPU's memory.",
    "zh": "适合多人同时使用，以及多个 GPU 或多台机器；启动较慢，并会占满 GPU 显存。",
}

_TABLE = (
    Loader(
        "Transformers",
        engine="modules.engines.hf.loader",
        memory="modules.engines.hf.memory",
        formats=("safetensors", "pytorch", "gptq", "awq"),
        options=_keys(TRANSFORMERS),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "train", "loglikelihoods", "cfg", "next", "embed", "rank"}),
        lora_engine="peft",
        packages=("torch", "transformers", "accelerate"),
        install="pip install -r requirements.txt",
        keeps_prompts=True,
        reasons={
            **dict.fromkeys(("safetensors", "pytorch"), _REASON_PLAIN),
            "gptq": _REASON_GPTQMODEL,
            "awq": _REASON_GPTQMODEL_AWQ,
        },
        reason_unusual_bits=_REASON_GPTQMODEL_UNUSUAL_BITS,
        aliases=("huggingface", "hf"),
        extras=(
            Extra(
                formats=("gptq", "awq"),
                packages=("gptqmodel", "optimum"),
                install="python server.py --install Transformers",
                overlay=_GPTQ,
            ),
        ),
    ),
    Loader(
        "ExLlamav2_HF",
        engine="modules.engines.exllamav2_hf.loader",
        memory="modules.engines.exllamav2.memory",
        formats=("gptq", "exl2"),
        options=_keys(EXLLAMAV2),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "loglikelihoods", "cfg", "next"}),
        lora_engine="exllamav2",
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2_HF",
        reasons=dict.fromkeys(("gptq", "exl2"), _REASON_EXLLAMAV2_HF),
        gptq_bits=frozenset({4}),
        architectures=_EXLLAMAV2_ARCHITECTURES,
        overlay=_EXLLAMAV2_PACKAGES,
        aliases=("exllama2_hf", "exlamav2_hf"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "ExLlamav2",
        engine="modules.engines.exllamav2.loader",
        memory="modules.engines.exllamav2.memory",
        formats=("gptq", "exl2"),
        options=_keys(EXLLAMAV2),
        samplers=_EXLLAMAV2_SAMPLERS,
        abilities=frozenset({"lora", "loras", "loglikelihoods", "cfg", "parallel", "next"}),
        lora_engine="exllamav2",
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2",
        reasons=dict.fromkeys(("gptq", "exl2"), _REASON_EXLLAMAV2),
        gptq_bits=frozenset({4}),
        architectures=_EXLLAMAV2_ARCHITECTURES,
        overlay=_EXLLAMAV2_PACKAGES,
        aliases=("exllama2", "exlamav2"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "AutoGPTQ",
        engine="modules.engines.autogptq.loader",
        memory="modules.engines.autogptq.memory",
        formats=("gptq",),
        options=_keys(AUTOGPTQ),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "loglikelihoods", "cfg", "next"}),
        lora_engine="peft",
        packages=("torch", "transformers", "auto_gptq"),
        install="python server.py --install AutoGPTQ",
        reasons={"gptq": _REASON_AUTOGPTQ},
        overlay=_LEGACY,
    ),
    Loader(
        "llama.cpp",
        engine="modules.engines.llamacpp.loader",
        memory="modules.engines.llamacpp.memory",
        gpus="llama.cpp",
        formats=("gguf",),
        options=_keys(LLAMACPP),
        samplers=_LLAMACPP_SAMPLERS,
        abilities=frozenset({"lora", "loras", "parallel", "next", "loglikelihoods", "embed", "rank"}),
        lora_engine="llama.cpp",
        packages=("llama_cpp",),
        install="python server.py --install llama.cpp",
        reasons={"gguf": _REASON_LLAMACPP},
        overlay=_LLAMACPP_PACKAGES,
        binds_threads=True,
        keeps_prompts=True,
    ),
    Loader(
        "llamacpp_HF",
        engine="modules.engines.llamacpp_hf.loader",
        memory="modules.engines.llamacpp_hf.memory",
        gpus="llama.cpp",
        formats=("gguf",),
        options=_keys(LLAMACPP_HF),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "loglikelihoods", "cfg", "next"}),
        lora_engine="llama.cpp",
        packages=("llama_cpp", "torch", "transformers"),
        install="python server.py --install llamacpp_HF",
        reasons={"gguf": _REASON_LLAMACPP_HF},
        overlay=_LLAMACPP_PACKAGES,
        binds_threads=True,
    ),
    Loader(
        "AutoAWQ",
        engine="modules.engines.autoawq.loader",
        memory="modules.engines.autoawq.memory",
        formats=("awq",),
        options=_keys(AUTOAWQ),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "loglikelihoods", "cfg", "next"}),
        lora_engine="peft",
        packages=("torch", "transformers", "awq"),
        install="python server.py --install AutoAWQ",
        reasons={"awq": _REASON_AUTOAWQ},
        overlay=_LEGACY,
        aliases=("awq",),
    ),
    Loader(
        "vLLM",
        engine="modules.engines.vllm.loader",
        memory="modules.engines.vllm.memory",
        formats=("safetensors", "gptq", "awq"),
        options=_keys(VLLM),
        samplers=SERVER_SAMPLERS["vllm"] - {SCHEMA},
        abilities=frozenset({"lora", "loglikelihoods", "parallel"}),
        lora_engine="vllm",
        packages=("vllm",),
        install="python server.py --install vLLM",
        reasons=dict.fromkeys(("safetensors", "gptq", "awq"), _REASON_VLLM),
        overlay=_VLLM_PACKAGES,
        program="vllm",
        program_option="vllm_program",
        by_request=True,
        refuses_early=True,
    ),
    Loader(
        "Remote",
        engine="modules.engines.remote.loader",
        formats=("server",),
        options=_keys(REMOTE),
        # Upper bounds: `Info` has those of the server.
        samplers=frozenset().union(*SERVER_SAMPLERS.values()) - {SCHEMA},
        abilities=frozenset({"lora", "loras", "parallel", "next", "loglikelihoods"}),
        packages=("httptools",),
        install="pip install -r requirements.txt",
        reasons={"server": _REASON_REMOTE},
        aliases=("server",),
        elsewhere=True,
    ),
)

LOADERS: Mapping[str, Loader] = {loader.name: loader for loader in _TABLE}
"""Every loader by its name, in the order of the menu."""


def find_loader(name: str) -> Loader:
    """Return the loader called `name`. Case and punctuation do not matter: "llama-cpp" is accepted.

    Raises UnknownLoader with the most similar name.
    """
    for loader in LOADERS.values():
        if _folded(name) in map(_folded, (loader.name, *loader.aliases)):
            return loader
    raise UnknownLoader(name, nearest(name, LOADERS))


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def candidates(model_format: str) -> tuple[Loader, ...]:
    """Return the loaders for a format such as "gguf" or "gptq", the best first.

    Loaders that prefer the format come first, then those that follow in the menu; those used by request come last.
    """
    supporting = [loader for loader in LOADERS.values() if model_format in loader.formats]
    return tuple(sorted(supporting, key=lambda loader: (loader.by_request, loader.formats.index(model_format))))


def prepared_overlay() -> Overlay:
    """Return the overlay that `server.py --prepare` installs in the background."""
    return next(row.overlay for row in LOADERS.values() if row.overlay is not None and row.overlay.prepared)
