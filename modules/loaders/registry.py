"""The table of loaders: which formats and options each takes, what it can do, and what it needs to be installed.

`settle` decides what every option of one load is, and where that value came from.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder

from modules.core.errors import LoaderUnavailable, OptionError, UnknownLoader, UnknownOption, WebUIError, Words
from modules.loaders.overlay import Overlay
from modules.options.generation import OF_EVERY_LOADER, ONLY_TRANSFORMERS, PARAMETERS
from modules.options.load import OPTIONS
from modules.options.option import Option, Value, nearest
from modules.system import gpus

_LEGACY = Overlay("legacy", megabytes=250)
_GPTQ = Overlay("gptq", megabytes=23)
_EXLLAMAV2_ROOM = Overlay("exllamav2", megabytes=7)
LLAMACPP = Overlay("llamacpp", megabytes=30, compiled="llama-cpp-python", build_megabytes=700, title="llama.cpp")
"""Apart from the main environment, so that the program can be used while it is compiled."""


@dataclass(frozen=True)
class Extra:
    """What a loader needs besides for some of its `formats`: in the main environment or, if not there, in `overlay`."""

    formats: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    overlay: Overlay | None = None


@dataclass(frozen=True)
class Loader:
    """One row of the table.

    `engine` is "module:Class", imported by the worker only. `formats` and `options` stand in order of preference and
    of appearance. `abilities` are among "lora", "loras" (several at once), "train", "perplexity", "cfg", "parallel".
    `packages` are import names; `install` is the line that brings them, into the `overlay` if there is one. `kernels`
    is a compiled module that only NVIDIA cards run; where it is not installed, it is built at the first load. An engine
    that `binds_threads` has the operation of that name, which binds its compute threads to cores.
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


_TOKENIZER = ("trust_remote_code", "no_use_fast")
_LLAMACPP = (
    *("n_gpu_layers", "n_ctx", "threads", "flash_attn"),
    *("cpu", "tensor_split", "row_split", "no_offload_kqv", "cache_8bit", "cache_4bit", "no_mmap", "mlock", "numa"),
    *("alpha_value", "rope_freq_base", "compress_pos_emb", "streaming_llm", "attention_sink_size"),
    *("threads_batch", "n_batch", "tensorcores", "no_mul_mat_q"),
)
_EXLLAMAV2 = (
    *("max_seq_len", "gpu_split"),
    *("autosplit", "cache_8bit", "cache_4bit", "cfg_cache"),
    *("alpha_value", "compress_pos_emb"),
    *("num_experts_per_token", "no_flash_attn", "no_xformers", "no_sdpa", *_TOKENIZER),
)

# A bias on single tokens is no field of the form, but the API has it.
_HF_SAMPLERS = frozenset(PARAMETERS) - OF_EVERY_LOADER | {"logit_bias"}
_LLAMACPP_SAMPLERS = _HF_SAMPLERS - ONLY_TRANSFORMERS
_EXLLAMAV2_SAMPLERS = _HF_SAMPLERS - {
    *("encoder_repetition_penalty", "no_repeat_ngram_size", "top_n_sigma", "epsilon_cutoff", "eta_cutoff"),
    *("smoothing_curve", "sampler_priority", "prompt_lookup_num_tokens"),
}

_TABLE = (
    Loader(
        "Transformers",
        engine="modules.engines.hf.loader:Transformers",
        formats=("safetensors", "pytorch", "gptq", "awq"),
        options=(
            *("load_in_4bit", "use_double_quant", "load_in_8bit", "bf16", "gpu_memory"),
            *("cpu_memory", "auto_devices", "disk", "cpu"),
            *("alpha_value", "rope_freq_base", "compress_pos_emb"),
            *("quant_type", "compute_dtype", "use_flash_attention_2", "use_eager_attention"),
            *("disable_exllama", "disable_exllamav2", *_TOKENIZER),
        ),
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
        engine="modules.engines.exllamav2_hf.loader:ExLlamav2HF",
        formats=("gptq", "exl2"),
        options=_EXLLAMAV2,
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2_HF",
        overlay=_EXLLAMAV2_ROOM,
        aliases=("exllama2_hf", "exlamav2_hf"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "ExLlamav2",
        engine="modules.engines.exllamav2.loader:ExLlamav2",
        formats=("gptq", "exl2"),
        options=_EXLLAMAV2,
        samplers=_EXLLAMAV2_SAMPLERS,
        abilities=frozenset({"lora", "loras", "cfg", "parallel"}),
        packages=("torch", "transformers", "exllamav2"),
        install="python server.py --install ExLlamav2",
        overlay=_EXLLAMAV2_ROOM,
        aliases=("exllama2", "exlamav2"),
        kernels="exllamav2_ext",
    ),
    Loader(
        "AutoGPTQ",
        engine="modules.engines.autogptq.loader:AutoGPTQ",
        formats=("gptq",),
        options=(
            *("gpu_memory", "wbits", "groupsize", "desc_act"),
            *("cpu_memory", "auto_devices", "disk", "cpu"),
            *("triton", "no_inject_fused_attention", "no_inject_fused_mlp", "no_use_cuda_fp16"),
            *("disable_exllama", "disable_exllamav2", *_TOKENIZER),
        ),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("torch", "transformers", "auto_gptq"),
        install="python server.py --install AutoGPTQ",
        overlay=_LEGACY,
    ),
    Loader(
        "llama.cpp",
        engine="modules.engines.llamacpp.engine:LlamaCpp",
        formats=("gguf",),
        options=(*_LLAMACPP, "parallel"),
        samplers=_LLAMACPP_SAMPLERS,
        abilities=frozenset({"lora", "loras", "parallel"}),
        packages=("llama_cpp",),
        install="python server.py --install llama.cpp",
        overlay=LLAMACPP,
        binds_threads=True,
    ),
    Loader(
        "llamacpp_HF",
        engine="modules.engines.llamacpp_hf.loader:LlamaCppHF",
        formats=("gguf",),
        options=(*_LLAMACPP, "cfg_cache", "logits_all", *_TOKENIZER),
        samplers=_HF_SAMPLERS,
        abilities=frozenset({"lora", "loras", "perplexity", "cfg"}),
        packages=("llama_cpp", "torch", "transformers"),
        install="python server.py --install llamacpp_HF",
        overlay=LLAMACPP,
        binds_threads=True,
    ),
    Loader(
        "AutoAWQ",
        engine="modules.engines.autoawq.loader:AutoAWQ",
        formats=("awq",),
        options=(
            *("gpu_memory", "max_seq_len", "cpu_memory", "auto_devices"),
            *("no_inject_fused_attention", *_TOKENIZER),
        ),
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
    """The loader called `name`; case and punctuation do not matter, so "llama-cpp" is one. Else UnknownLoader."""
    for loader in LOADERS.values():
        if _folded(name) in map(_folded, (loader.name, *loader.aliases)):
            return loader
    raise UnknownLoader(name, nearest(name, LOADERS))


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def candidates(model_format: str) -> tuple[Loader, ...]:
    """The loaders that take `model_format` ("gguf", "gptq", …), best first: who prefers it, then the menu's order."""
    takers = [loader for loader in LOADERS.values() if model_format in loader.formats]
    return tuple(sorted(takers, key=lambda loader: loader.formats.index(model_format)))


def overlay_of(loader: Loader, model_format: str = "") -> Overlay | None:
    """The overlay that its worker prefers for models of that format. Nothing is imported for that."""
    own = None if loader.overlay is None or loader.overlay.in_environment else loader.overlay
    for extra in loader.extras:
        if model_format in extra.formats and not all(map(importlib.util.find_spec, extra.packages)):
            return extra.overlay or own
    return own


def llamacpp_gpus(present: gpus.Gpus) -> Sequence[gpus.Gpu]:
    """Return those `present`, if the llama.cpp that workers use was built for them; it may be installed at any time."""
    overlay = overlay_of(LOADERS["llama.cpp"])
    return present.now() if gpus.llamacpp_uses_them(overlay.folder if overlay is not None else None) else ()


def unavailable(loader: Loader, model_format: str = "") -> LoaderUnavailable | None:
    """Why `loader` cannot run here, or not with models of that format; None if it can. Nothing is imported for that."""
    if _lacks_gpu(loader):
        return LoaderUnavailable(loader.name, _no_cuda(model_format))
    overlay = overlay_of(loader, model_format)
    extras = [extra for extra in loader.extras if model_format in extra.formats]
    if overlay is not None and not overlay.whole:
        install = next((extra.install for extra in extras if extra.overlay == overlay), loader.install)
        return LoaderUnavailable(loader.name, _absent(overlay, install), install)
    for packages, install in [(loader.packages, loader.install), *((each.packages, each.install) for each in extras)]:
        if missing := [package for package in packages if not _installed(package, overlay)]:
            return LoaderUnavailable(loader.name, _missing(missing, install), install)
    return None


def damaged(loader: Loader, model_format: str = "") -> LoaderUnavailable | None:
    """Why a load may have failed whatever the model: its overlay's files are not those installed. From then on the
    overlay does not count as there, so that it can be installed anew."""
    overlay = overlay_of(loader, model_format)
    if overlay is None or not (what := overlay.damage()):
        return None
    overlay.distrust()
    absent = unavailable(loader, model_format)
    return LoaderUnavailable(loader.name, _damaged(overlay, what), absent.install if absent else "")


def _lacks_gpu(loader: Loader) -> bool:
    return bool(loader.kernels) and not _installed(loader.kernels, loader.overlay) and not _nvidia()


@cache
def _nvidia() -> bool:
    """Whether there is a card of NVIDIA's; none comes or goes while the program runs."""
    return bool(gpus.nvidia())


def _no_cuda(model_format: str) -> Words:
    others = [each.name for each in candidates(model_format) if not _lacks_gpu(each)]
    rest: Words = {"en": "", "zh": ""}
    if others:
        rest = {
            "en": f"; this model can be loaded with {' or '.join(others)} instead",
            "zh": f"；此模型可改用 {' 或 '.join(others)} 加载",
        }
    elif model_format:
        kind = model_format.upper()
        rest = {"en": f"; no other loader takes {kind} models", "zh": f"；{kind} 模型没有其他加载器可用"}
    return {
        "en": f"it needs an NVIDIA GPU with CUDA, and there is none here{rest['en']}.",
        "zh": f"它需要支持 CUDA 的 NVIDIA 显卡，而此处没有{rest['zh']}。",
    }


def _missing(packages: list[str], install: str) -> Words:
    names = ", ".join(packages)
    return {
        "en": f"not installed: {names}. To install: {install}",
        "zh": f"未安装 {names}。安装命令：{install}",
    }


def _absent(overlay: Overlay, install: str) -> Words:
    size = overlay.megabytes
    if overlay.compiled:
        return {
            "en": "it has not been compiled yet. To have that done, press Install on the Model tab, or run: " + install,
            "zh": f"尚未编译。请点击“模型”页的“安装”，或运行：{install}",
        }
    return {
        "en": f"it needs packages of its own ({size} MB), kept apart from all others in overlays/{overlay.name}. "
        f"To install them, press Install on the Model tab, or run: {install}",
        "zh": f"它需要专用的软件包（{size} MB），将单独安装到 overlays/{overlay.name}。"
        f"请点击“模型”页的“安装”，或运行：{install}",
    }


def _damaged(overlay: Overlay, what: str) -> Words:
    return {
        "en": f"its packages in overlays/{overlay.name} are damaged ({what}). Install them again.",
        "zh": f"overlays/{overlay.name} 中的软件包已损坏（{what}），请重新安装。",
    }


def _installed(package: str, overlay: Overlay | None) -> bool:
    # The overlay is on the worker's path, not on ours. Of a folder that is not there Python would remember just that.
    if overlay is not None and overlay.folder.is_dir() and PathFinder.find_spec(package, [str(overlay.folder)]):
        return True
    return importlib.util.find_spec(package) is not None


@dataclass(frozen=True)
class Setting:
    """What an option is, and who says so: "default", "model", "saved", "flag" or "form"."""

    value: Value
    source: str


def settle(
    loader: Loader,
    *,
    model: Mapping[str, object],
    saved: Mapping[str, object],
    flags: Mapping[str, object],
    form: Mapping[str, object],
) -> dict[str, Setting]:
    """Exactly the options of `loader`, each from the strongest source that names it: the later argument wins.

    The mappings hold raw values by option key; None says nothing. Options of other loaders are passed over, and so
    are keys nobody knows in what was found on disk (`model`, `saved`); typed by the user they are an UnknownOption.
    Only what takes effect is parsed (OptionError), so a damaged saved value can be set right in the form.
    """
    _refuse_unknown(flags)
    _refuse_unknown(form)
    # The original saved an unset drop-down as the word "None".
    saved = {key: raw for key, raw in saved.items() if raw != "None"}
    sources = {"form": form, "flag": flags, "saved": saved, "model": model}
    return {key: _strongest(OPTIONS[key], sources) for key in loader.options}


def _refuse_unknown(typed: Mapping[str, object]) -> None:
    for key in typed:
        if key not in OPTIONS:
            raise UnknownOption(key, nearest(key, OPTIONS))


def _strongest(option: Option, sources: Mapping[str, Mapping[str, object]]) -> Setting:
    """The setting of `option` by the first of `sources` that says anything."""
    for source, said in sources.items():
        if said.get(option.key) is not None:
            return Setting(option.parse(said[option.key]), source)
    return Setting(option.default, "default")


def usable(saved: Mapping[str, object]) -> tuple[dict[str, object], list[WebUIError]]:
    """`saved` without the values that are none, and what is wrong with those."""
    fine, problems = dict(saved), list[WebUIError]()
    for key in saved.keys() & OPTIONS.keys():
        try:
            if saved[key] is not None and saved[key] != "None":
                OPTIONS[key].parse(saved[key])
        except OptionError as error:
            problems.append(error)
            del fine[key]
    return fine, problems


def values(settings: Mapping[str, Setting]) -> dict[str, Value]:
    """The bare values of `settings`, as an engine takes them."""
    return {key: setting.value for key, setting in settings.items()}
