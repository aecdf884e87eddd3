"""The registry of loaders: one row per loader, with its formats, options, abilities and requirements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modules.core.errors import UnknownLoader
from modules.loaders.overlay import Overlay
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL
from modules.options.load_exllamav2 import EXLLAMAV2
from modules.options.load_gptq_awq import AUTOAWQ, AUTOGPTQ
from modules.options.load_llamacpp import LLAMACPP, LLAMACPP_HF
from modules.options.load_transformers import TRANSFORMERS
from modules.options.option import Option, nearest

_LEGACY = Overlay("legacy", megabytes=250)
_GPTQ = Overlay("gptq", megabytes=23)
_EXLLAMAV2_PACKAGES = Overlay("exllamav2", megabytes=7)
# Not in the main environment, so that the application can be used while llama.cpp compiles.
_LLAMACPP_PACKAGES = Overlay(
    "llamacpp", megabytes=30, compiled="llama-cpp-python", build_megabytes=700, title="llama.cpp", prepared=True
)


@dataclass(frozen=True)
class Extra:
    """Packages that a loader needs for some of its `formats` only, from the main environment or else from `overlay`."""

    formats: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    overlay: Overlay | None = None


@dataclass(frozen=True)
class Loader:
    """One row of the registry: what a loader can load, how it is configured, and what it needs.

    Attributes:
        engine: Module whose `LOADER` loads models, in the worker.
        formats: Model formats, the preferred ones first.
        options: Keys of its load options, in the order of `--explain`.
        samplers: Keys of the generation parameters that its sampler implements.
        abilities: Any of "lora", "loras" (several at once), "train", "perplexity", "cfg", "parallel".
        packages: Import names of the packages it needs.
        install: Command that installs them, into `overlay` if there is one.
        overlay: Packages for its worker, if the main environment has other versions or none.
        aliases: Other names accepted by `--loader`.
        extras: Further packages for some of the formats.
        kernels: Compiled module that only NVIDIA GPUs run; built at the first load if it is not installed.
        binds_threads: Whether the engine has the operation `binds_threads`, which binds compute threads to cores.
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


def _keys(table: Iterable[Option]) -> tuple[str, ...]:
    return tuple(option.key for option in table)


# "logit_bias" is a parameter of the API and has no widget.
_HF_SAMPLERS = frozenset(PARAMETERS) - SUPPORTED_BY_ALL | {"logit_bias"}
_LLAMACPP_SAMPLERS = _HF_SAMPLERS - {
    *("epsilon_cutoff", "eta_cutoff", "tfs", "top_a", "do_sample", "smoothing_factor", "smoothing_curve"),
    *("temperature_last", "sampler_priority", "encoder_repetition_penalty", "no_repeat_ngram_size", "min_length"),
    *("guidance_scale", "negative_prompt", "add_bos_token", "skip_special_tokens", "prompt_lookup_num_tokens"),
}
_EXLLAMAV2_SAMPLERS = _HF_SAMPLERS - {
    *("encoder_repetition_penalty", "no_repeat_ngram_size", "top_n_sigma", "epsilon_cutoff", "eta_cutoff"),
    *("smoothing_curve", "sampler_priority", "prompt_lookup_num_tokens"),
}

_TABLE = (
    Loader(
        "Transformers",
        engine="modules.engines.hf.loader",
        formats=("safetensors", "pytorch", "gptq", "awq"),
        options=_keys(TRANSFORMERS),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "train", "perplexity", "cfg"}),
        packages=("torch", "transformers", "accelerate"),
        install="pip install -r requirements.txt",
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
        formats=("gptq", "exl2"),
        options=_keys(EXLLAMAV2),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2_HF",
        overlay=_EXLLAMAV2_PACKAGES,
        aliases=("exllama2_hf", "exlamav2_hf"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "ExLlamav2",
        engine="modules.engines.exllamav2.loader",
        formats=("gptq", "exl2"),
        options=_keys(EXLLAMAV2),
        samplers=_EXLLAMAV2_SAMPLERS,
        abilities=frozenset({"lora", "loras", "cfg", "parallel"}),
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2",
        overlay=_EXLLAMAV2_PACKAGES,
        aliases=("exllama2", "exlamav2"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "AutoGPTQ",
        engine="modules.engines.autogptq.loader",
        formats=("gptq",),
        options=_keys(AUTOGPTQ),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("torch", "transformers", "auto_gptq"),
        install="python server.py --install AutoGPTQ",
        overlay=_LEGACY,
    ),
    Loader(
        "llama.cpp",
        engine="modules.engines.llamacpp.loader",
        formats=("gguf",),
        options=_keys(LLAMACPP),
        samplers=_LLAMACPP_SAMPLERS,
        abilities=frozenset({"lora", "loras", "parallel"}),
        packages=("llama_cpp",),
        install="python server.py --install llama.cpp",
        overlay=_LLAMACPP_PACKAGES,
        binds_threads=True,
    ),
    Loader(
        "llamacpp_HF",
        engine="modules.engines.llamacpp_hf.loader",
        formats=("gguf",),
        options=_keys(LLAMACPP_HF),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("llama_cpp", "torch", "transformers"),
        install="python server.py --install llamacpp_HF",
        overlay=_LLAMACPP_PACKAGES,
        binds_threads=True,
    ),
    Loader(
        "AutoAWQ",
        engine="modules.engines.autoawq.loader",
        formats=("awq",),
        options=_keys(AUTOAWQ),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("torch", "transformers", "awq"),
        install="python server.py --install AutoAWQ",
        overlay=_LEGACY,
        aliases=("awq",),
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

    Loaders that prefer the format come first, then those that follow in the menu.
    """
    supporting = [loader for loader in LOADERS.values() if model_format in loader.formats]
    return tuple(sorted(supporting, key=lambda loader: loader.formats.index(model_format)))


def prepared_overlay() -> Overlay:
    """Return the overlay that `server.py --prepare` installs in the background."""
    return next(row.overlay for row in LOADERS.values() if row.overlay is not None and row.overlay.prepared)
