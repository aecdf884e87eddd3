"""Ask servers of each kind for facts about themselves and their models.

Everything that a server sends is checked: what is missing or of another type is left unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from modules.core.events import Json, Note
from modules.core.product import PRODUCT
from modules.engines.served.prompts import ids_of
from modules.engines.served.server_kind import DISCOVERY_SECONDS, MOST_TOKENS, Answer, Ask, ServerFacts, ServerLora
from modules.engines.served.template_probe import derived_template
from modules.loaders.registry import LOADERS
from modules.loaders.server_samplers import SCHEMA, SERVER_SAMPLERS

AUTO = "auto"
LONGEST_TEMPLATE = 1 << 20
"""Characters of a chat template."""
LONGEST_TEXT = 4096
"""Characters of a version, a token, a path, or the settings of a model of Ollama's."""
MOST_LORAS = 1000
LOADING_SECONDS = 120.0
"""A llama-server with many models loads one when it is first asked about it."""
TOKENIZER_SECONDS = 60.0
"""A tokenizer's whole vocabulary has some megabytes."""
OLLAMA_CONTEXT = 4096
"""Tokens of Ollama's context where neither its settings nor the model's are known."""
_CLAMPING_VLLM = (0, 12)
"""The first version of vLLM that shortens an answer to the context instead of refusing the request."""

_OLLAMA_CONTEXT_NOTE = Note(
    "n_ctx",
    {
        "en": f"Ollama does not tell the context of a model that is not loaded: {OLLAMA_CONTEXT} is used, its default.",
        "zh": f"模型未加载时 Ollama 不告知上下文长度，将使用其默认值 {OLLAMA_CONTEXT}。",
    },
)


@dataclass(frozen=True)
class Choices:
    """Options of the loader Remote that the user has set. A `context_length` of 0 is the server's."""

    model: str = ""
    kind: str = AUTO
    prompts: str = AUTO
    context_length: int = 0
    chat_template: str = ""
    special_tokens: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """The model to use, the models that the server lists, and what the user has chosen."""

    model: str
    entries: Sequence[Mapping[str, Json]]
    choices: Choices

    @property
    def entry(self) -> Mapping[str, Json]:
        """The entry of the model in the server's list; empty if it has none."""
        return next((entry for entry in self.entries if entry["id"] == self.model), {})

    def context(self, reported: Json) -> int:
        """Return the length of the context: the user's choice, at most what the server reports."""
        length, chosen = _count(reported), self.choices.context_length
        return min(length, chosen) if length and chosen else length or chosen

    def messages(self, template: str) -> bool:
        """Tell whether conversations are sent as messages: by choice, or for lack of a template."""
        return self.choices.prompts == "chat" or (self.choices.prompts == AUTO and not template)


# -- vLLM --------------------------------------------------------------------------------------------------------------


def is_vllm(ask: Ask) -> bool:
    """Tell whether a server answers as vLLM does."""
    return "version" in _object(ask, "/version")


def of_vllm(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what a vLLM server tells."""
    version = _text(_object(ask, "/version").get("version"))
    counts, bos = _hf_tokenizer(ask, wanted.model, "prompt")
    template, tokens = wanted.choices.chat_template, wanted.choices.special_tokens
    if not template:
        reported = _object(ask, "/tokenizer_info")
        template, tokens = _template(reported.get("chat_template")), _special_tokens(reported) or tokens
    if not template and wanted.choices.prompts == AUTO:
        template = derived_template(ask, wanted.model)
    return ServerFacts(
        "vllm",
        wanted.model,
        version,
        wanted.context(wanted.entry.get("max_model_len")),
        takes_ids=True,
        messages=wanted.messages(template),
        counts=counts,
        needs_length=_numbers(version) < _CLAMPING_VLLM,
        bos=bos,
        chat_template=template,
        special_tokens=tokens,
        loras=_loras(wanted),
    )


def _hf_tokenizer(ask: Ask, model: str, text_field: str) -> tuple[bool, str]:
    """Return whether a server tokenizes, and the text of the BOS token that it puts before a text, "" without one."""
    ids = []
    for add_special in (True, False):
        body = {"model": model, "prompt": "a", "add_special_tokens": add_special}
        try:
            ids.append(ids_of(_post(ask, "/tokenize", body).get("tokens")))
        except ValueError:
            ids.append([])
    counts = bool(ids[1])
    added = ids[0][: -len(ids[1])] if counts and ids[0][-len(ids[1]) :] == ids[1] else []
    if not added:
        return counts, ""
    decoded = _post(ask, "/detokenize", {"model": model, "tokens": added[:1], "skip_special_tokens": False})
    return counts, _text(decoded.get(text_field))


def _loras(wanted: Wanted) -> tuple[ServerLora, ...]:
    """Return the LoRAs among the models of a server: those with a parent."""
    return tuple(ServerLora(str(entry["id"])) for entry in wanted.entries if entry.get("parent"))[:MOST_LORAS]


# -- SGLang ------------------------------------------------------------------------------------------------------------


def is_sglang(ask: Ask) -> bool:
    """Tell whether a server answers as SGLang does."""
    return any("model_path" in _object(ask, path) for path in ("/model_info", "/get_model_info"))


def of_sglang(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what an SGLang server tells. It does not tell the model's chat template."""
    reported = _object(ask, "/server_info") or _object(ask, "/get_server_info")
    counts, bos = _hf_tokenizer(ask, wanted.model, "text")
    template = wanted.choices.chat_template
    return ServerFacts(
        "sglang",
        wanted.model,
        _text(reported.get("version")),
        wanted.context(wanted.entry.get("max_model_len") or reported.get("context_length")),
        _count(reported.get("max_running_requests")),
        takes_ids=True,
        messages=wanted.messages(template),
        counts=counts,
        needs_length=True,
        bos=bos,
        chat_template=template,
        special_tokens=wanted.choices.special_tokens,
        loras=_loras(wanted),
    )


# -- other programs of this kind ---------------------------------------------------------------------------------------


def is_text_studio(ask: Ask) -> bool:
    """Tell whether a server is another program of this kind, with a model in memory."""
    return _text(_object(ask, "/props").get("build_info")).startswith(PRODUCT)


def of_text_studio(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what another program of this kind tells, in the fields of a llama-server, and what its loader can do."""
    info, samplers = _object(ask, "/v1/internal/model/info"), None
    loader = LOADERS.get(_text(info.get("loader"))) if info.get("model_name") == wanted.model else None
    if loader is not None and not loader.elsewhere:
        schemas = {SCHEMA} if "grammar_string" in loader.samplers else set()
        samplers = SERVER_SAMPLERS["text-studio"] & (loader.samplers | schemas)
    return replace(of_llama_server(ask, wanted), kind="text-studio", alias="", loras=(), samplers=samplers)


# -- llama-server ------------------------------------------------------------------------------------------------------


def is_llama_server(ask: Ask) -> bool:
    """Tell whether a server answers as llama-server does. Others imitate its /props, but not its slots."""
    return "default_generation_settings" in _object(ask, "/props") and "build_info" in _object(ask, "/props")


def of_llama_server(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what a llama-server tells. Raises its refusal of a missing key."""
    named = f"?model={quote(wanted.model, safe='')}"
    answer = ask(f"/props{named}", seconds=LOADING_SECONDS)
    if answer.status == 401:  # older ones list their models without a key
        answer.value  # noqa: B018  raises the refusal
    props = _object_of(answer)
    settings, meta = props.get("default_generation_settings"), wanted.entry.get("meta")
    settings = settings if isinstance(settings, dict) else {}
    meta = meta if isinstance(meta, dict) else {}
    bos, template = _text(props.get("bos_token")), _template(props.get("chat_template"))
    body = {"model": wanted.model, "content": "", "add_special": True}
    adds_bos = bool(_post(ask, "/tokenize", body).get("tokens"))
    return ServerFacts(
        "llama-server",
        wanted.model,
        _text(props.get("build_info")),
        wanted.context(settings.get("n_ctx") or meta.get("n_ctx")),
        _count(props.get("total_slots")),
        _count(meta.get("n_vocab")),
        takes_ids=True,
        messages=wanted.messages(template),
        counts=True,
        bos=bos if adds_bos else "",
        alias=_text(props.get("model_alias")),
        chat_template=template,
        special_tokens={"bos_token": bos, "eos_token": _text(props.get("eos_token"))},
        loras=_numbered_loras(ask, named),
    )


def _numbered_loras(ask: Ask, named: str) -> tuple[ServerLora, ...]:
    answer = ask(f"/lora-adapters{named}", seconds=DISCOVERY_SECONDS)
    listed = answer.body if answer.is_ok and isinstance(answer.body, list) else []
    entries = [entry for entry in listed[:MOST_LORAS] if isinstance(entry, dict) and type(entry.get("id")) is int]
    return tuple(ServerLora(re.split(r"[\\/]", _text(entry.get("path")))[-1], entry["id"]) for entry in entries)


# -- Ollama ------------------------------------------------------------------------------------------------------------


def is_ollama(ask: Ask) -> bool:
    """Tell whether a server answers as Ollama does."""
    return "version" in _object(ask, "/api/version")


def of_ollama(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what an Ollama server tells."""
    shown = _post(ask, "/api/show", {"model": wanted.model})
    model = shown.get("model_info")
    model = model if isinstance(model, dict) else {}
    template = _template(model.get("tokenizer.chat_template"))
    messages = wanted.messages(template)
    context = wanted.context(_ollama_context(ask, wanted.model, shown, model))
    bos = (
        "" if messages or not model.get("tokenizer.ggml.add_bos_token", "bos_token" in template) else _bos(ask, wanted)
    )
    return ServerFacts(
        "ollama",
        wanted.model,
        _text(_object(ask, "/api/version").get("version")),
        context or OLLAMA_CONTEXT,
        messages=messages,
        bos=bos,
        chat_template=template,
        special_tokens={"bos_token": bos} if bos else {},
        notes=() if context else (_OLLAMA_CONTEXT_NOTE,),
    )


def _ollama_context(ask: Ask, name: str, shown: Mapping[str, Json], model: Mapping[str, Json]) -> int:
    """Return the context of a model as it is loaded, or as its Modelfile says; at most that of its training."""
    running = _object(ask, "/api/ps").get("models")
    loaded = [one for one in running if isinstance(one, dict)] if isinstance(running, list) else []
    length = next((_count(one.get("context_length")) for one in loaded if one.get("name") == name), 0)
    if not length and (saved := re.search(r"^num_ctx\s+(\d{1,9})\s*$", _text(shown.get("parameters")), re.MULTILINE)):
        length = int(saved[1])
    trained = next((_count(value) for key, value in model.items() if key.endswith(".context_length")), 0)
    return min(length, trained) if length and trained else length


def _bos(ask: Ask, wanted: Wanted) -> str:
    """Return the text of the BOS token, for which Ollama must be asked for the whole vocabulary."""
    answer = ask("/api/show", {"model": wanted.model, "verbose": True}, seconds=TOKENIZER_SECONDS)
    model = answer.body.get("model_info") if answer.is_ok and isinstance(answer.body, dict) else None
    model = model if isinstance(model, dict) else {}
    number, tokens = model.get("tokenizer.ggml.bos_token_id"), model.get("tokenizer.ggml.tokens")
    if not isinstance(number, int) or not isinstance(tokens, list):
        return ""
    return _text(tokens[number]) if 0 <= number < len(tokens) else ""


# -- others ------------------------------------------------------------------------------------------------------------


def is_lm_studio(ask: Ask) -> bool:
    """Tell whether a server answers as LM Studio does."""
    return isinstance(_object(ask, "/api/v1/models").get("models"), list)


def of_lm_studio(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what LM Studio tells: the context that the model was loaded with, or could be."""
    models = _object(ask, "/api/v1/models").get("models")
    listed = [one for one in models if isinstance(one, dict)] if isinstance(models, list) else []
    reported: Json = next((one for one in listed if wanted.model in (one.get("key"), *_instances(one))), {})
    loaded = _instances(reported)
    config = loaded.get(wanted.model) or next(iter(loaded.values()), {})
    context = wanted.context(config.get("context_length") or reported.get("max_context_length"))
    text = wanted.choices.prompts == "text"
    return ServerFacts("lm-studio", wanted.model, context_length=context, messages=not text)


def _instances(model: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the settings with which a model of LM Studio was loaded, by the names of its instances."""
    listed = model.get("loaded_instances")
    entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return {_text(one.get("id")): config for one in entries if isinstance(config := one.get("config"), dict)}


def of_openai(ask: Ask, wanted: Wanted) -> ServerFacts:
    """Return what any other server tells in its list of models."""
    entry = wanted.entry
    reported = next((entry[key] for key in ("max_model_len", "context_length", "context_window") if entry.get(key)), 0)
    text = wanted.choices.prompts == "text"
    return ServerFacts(
        "openai", wanted.model, context_length=wanted.context(reported), takes_text=text, messages=not text
    )


# -- checked values ----------------------------------------------------------------------------------------------------


def _object(ask: Ask, path: str) -> Mapping[str, Json]:
    """Return the object that a GET request brings, an empty one for anything else."""
    return _object_of(ask(path, seconds=DISCOVERY_SECONDS))


def _post(ask: Ask, path: str, body: Json) -> Mapping[str, Json]:
    return _object_of(ask(path, body, seconds=DISCOVERY_SECONDS))


def _object_of(answer: Answer) -> Mapping[str, Json]:
    return answer.body if answer.is_ok and isinstance(answer.body, dict) else {}


def _text(value: Json, longest: int = LONGEST_TEXT) -> str:
    return value if isinstance(value, str) and len(value) <= longest else ""


def _count(value: Json) -> int:
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0


def _template(value: Json) -> str:
    """Return a chat template: a text, or the default one of several with names."""
    if isinstance(value, list):
        named = {_text(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return _text(value, LONGEST_TEMPLATE)


def _special_tokens(reported: Mapping[str, Json]) -> dict[str, Json]:
    """Return the texts of special tokens in a tokenizer's settings, which are texts or objects with `content`."""
    texts = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = reported.get(name)
        texts[name] = _text(value.get("content") if isinstance(value, dict) else value)
    return {name: text for name, text in texts.items() if text}


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; those of an unknown one are high."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (99, 0)
