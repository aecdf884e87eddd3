"""Read the files of a LoRA: PEFT's adapter_config.json and safetensors, or a GGUF adapter.

A LoRA adds B·A to the weight of a linear layer with `in` inputs and `out` outputs: A is [rank, in], B is [out, rank].
For an embedding A is [rank, vocabulary] and B is [width, rank].

Source: LoraConfig and get_peft_model_state_dict in peft 0.21; the GGUF specification.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import UnsupportedModel, Words
from modules.formats.gguf_header import GgufHeader, read_tensors
from modules.formats.gguf_tensors import TensorEntry
from modules.formats.json_file import read_json
from modules.formats.peft_features import merges_type, used_features, without_adapter_name
from modules.formats.safetensors_header import StoredTensor, read_safetensors_table
from modules.system.format_errors import FormatError, as_model_problem, printable, quoted

_PREFIX = "base_model.model."
_PEFT_TENSOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
_GGUF_TENSOR = re.compile(r"(.+)\.lora_([ab])")
_PEFT_DEFAULT = 8  # of both rank and alpha
_MAX_NAME_LENGTH = 160
_MAX_RANK = 1 << 20
_MAX_PATTERN_LENGTH, _MAX_CHOICES, _MAX_REPETITIONS = 500, 256, 2
_BYTES_PER_NUMBER = {"F32": 4, "F16": 2, "BF16": 2}
# Types that llama.cpp cannot multiply with: its process would abort.
_UNSUPPORTED_TYPES = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")
_PATTERNS = ("rank_pattern", "alpha_pattern")
_ALORA = "adapter.alora.invocation_tokens"

MERGE: Words = {
    "en": "Merge it into its model with PEFT elsewhere (merge_and_unload, then save_pretrained), and load the result.",
    "zh": "请在别处用 PEFT 将其合并到模型（merge_and_unload，再 save_pretrained），然后加载合并后的模型。",
}
UNUSABLE: Words = {"en": "No loader of this program can use it.", "zh": "本程序的加载器都无法使用它。"}
MADE_BY_MLX: Words = {
    "en": "this LoRA was made with MLX, which names and transposes its tensors in another way than PEFT. "
    "Merge it into its model with mlx_lm.fuse, and load the result.",
    "zh": "此 LoRA 由 MLX 训练，其张量的名称和方向与 PEFT 不同。请用 mlx_lm.fuse 将其合并到模型，再加载合并后的模型。",
}


@dataclass(frozen=True)
class Pair:
    """The tensors A and B of one module, such as "model.layers.0.self_attn.q_proj"; in GGUF "blk.0.attn_q.weight".

    `a` and `b` are the names of the tensors in the file. The `inputs` of an `embedding` are its vocabulary. A tensor
    in a GGUF holds `experts` matrices.
    """

    module: str
    a: str
    b: str
    rank: int
    inputs: int
    outputs: int
    embedding: bool = False
    experts: int = 1


@dataclass(frozen=True)
class AdapterConfig:
    """The content of PEFT's adapter_config.json.

    `ranks` and `alphas` override `rank` and `alpha` for modules whose names match a pattern. `rank_stabilized` scales
    by the root of the rank (rsLoRA). `transposed` means that the model stores weights as [in, out]. `features` are the
    keys that ask for more than A and B.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()
    base: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    alphas: Mapping[str, float] = field(default_factory=dict, hash=False)
    rank_stabilized: bool = False
    transposed: bool = False
    features: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        return next((rank for key, rank in self.ranks.items() if _matches(key, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor that B·A is multiplied by."""
        alpha = next((alpha for key, alpha in self.alphas.items() if _matches(key, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


@dataclass(frozen=True)
class Adapter:
    """The tensors of a LoRA. `others` are the names of those without a partner.

    `stored` is the type of most of them: "F16", "BF16" or "F32", or one of GGUF's. `header` is that of a GGUF adapter.
    """

    pairs: tuple[Pair, ...]
    others: tuple[str, ...]
    stored: str
    header: GgufHeader | None = None


def tensor_name(name: str, language: str = "en") -> str:
    """Quote the name of a tensor or module for an error message, shortened if it is very long."""
    return quoted(name, language, _MAX_NAME_LENGTH)


def read_config(path: Path) -> AdapterConfig:
    """Read adapter_config.json. Raises ModelProblem, also for adapters that are not LoRAs, or OSError."""
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(printable(path.name), _not_a_lora(config))
    for key in _PATTERNS:
        if slow := next((pattern for pattern, _ in _patterns(config, key) if not _is_quick(pattern)), None):
            raise UnsupportedModel(
                printable(path.name),
                {
                    "en": f"{key}: matching {quoted(slow)} could take for ever.",
                    "zh": f"{key}：匹配{quoted(slow, 'zh')}可能永远无法完成。",
                },
            )
    targets = config.get("target_modules")
    rank, alpha = config.get("r", _PEFT_DEFAULT), config.get("lora_alpha", _PEFT_DEFAULT)
    if not _is_rank(rank) or not _is_number(alpha):
        raise UnsupportedModel(
            printable(path.name),
            {
                "en": f"r = {rank!r} or lora_alpha = {alpha!r} is not a valid number.",
                "zh": f"r = {rank!r} 或 lora_alpha = {alpha!r} 不是有效数字。",
            },
        )
    return AdapterConfig(
        rank=rank,
        alpha=float(alpha),
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(map(str, _list(targets)))),
        base=printable(str(config.get("base_model_name_or_path") or "")),
        ranks={key: value for key, value in _patterns(config, "rank_pattern") if _is_rank(value)},
        alphas={key: float(value) for key, value in _patterns(config, "alpha_pattern") if _is_number(value)},
        rank_stabilized=config.get("use_rslora") is True,
        transposed=config.get("fan_in_fan_out") is True,
        features=used_features(config),
    )


def _not_a_lora(config: Mapping[str, Any]) -> Words:
    kind = config.get("peft_type")
    if is_mlx_config(config):
        return MADE_BY_MLX
    if not isinstance(kind, str):
        return {
            "en": "the type of the adapter (peft_type) is missing; only LoRAs made by PEFT are supported.",
            "zh": "缺少适配器类型（peft_type）；仅支持 PEFT 的 LoRA。",
        }
    advice = MERGE if merges_type(kind) else UNUSABLE
    return {
        "en": f"the adapter is of type {quoted(kind)}; only LORA is supported. {advice['en']}",
        "zh": f"适配器类型为{quoted(kind, 'zh')}；仅支持 LORA。{advice['zh']}",
    }


def is_mlx_config(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is one that mlx-lm writes."""
    return "peft_type" not in config and not config.keys().isdisjoint({"fine_tune_type", "lora_parameters"})


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _patterns(config: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    patterns = config.get(key)
    return iter(patterns.items() if isinstance(patterns, dict) else ())


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < _MAX_RANK


def _is_number(value: object) -> bool:
    # A whole number of JSON can be too large for a float, for which math.isfinite() raises OverflowError.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_quick(pattern: str) -> bool:
    """Whether a stranger's regular expression can be matched with names of modules in a moment, whatever these are.

    Repeated groups may take exponential time. Each repetition of a character multiplies it by the name's length, each
    optional character by two, and each group by its alternatives.
    """
    plain = re.sub(r"\\.", "x", pattern).replace("(?:", "(")
    repetitions = len(re.findall(r"[*+{]", plain))
    choices = 2 ** plain.count("?") * math.prod(part.count("|") + 1 for part in plain.split("("))
    return (
        len(pattern) <= _MAX_PATTERN_LENGTH
        and not re.search(r"\)[*+?{]|\(\?", plain)
        and repetitions <= _MAX_REPETITIONS
        and choices <= _MAX_CHOICES
    )


def _matches(pattern: str, module: str) -> bool:
    """Whether the end of a module's name matches a regular expression, as PEFT tests it."""
    if len(module) > _MAX_NAME_LENGTH:
        return False
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


def read_peft(path: Path) -> Adapter:
    """Read adapter_model.safetensors. Raises ModelProblem or OSError."""
    table = read_safetensors_table(path)
    partners: dict[str, dict[str, str]] = {}
    others = []
    for name in table:
        if match := _PEFT_TENSOR.fullmatch(without_adapter_name(name)):
            partners.setdefault(match[1], {})[match[3]] = name
        else:
            others.append(name)
    with as_model_problem(path.name):
        pairs = tuple(_peft_pair(module, names, table) for module, names in partners.items())
        return Adapter(_not_empty(pairs), tuple(others), _most_common_type(table))


def _peft_pair(module: str, names: Mapping[str, str], table: Mapping[str, StoredTensor]) -> Pair:
    a, b = _require_both(module, names.get("A"), names.get("B"))
    shape_a, shape_b = _checked_shape(a, table[a]), _checked_shape(b, table[b])
    embedding = ".lora_embedding_" in a
    pair = Pair(module.removeprefix(_PREFIX), a, b, shape_a[0], shape_a[1], shape_b[0], embedding)
    return _check_rank(pair, shape_b[1])


def _checked_shape(name: str, stored: StoredTensor) -> tuple[int, ...]:
    """Return the shape. Raises FormatError if it has fewer than two dimensions, or does not match the bytes stored."""
    width = _BYTES_PER_NUMBER.get(stored.dtype)
    if width is None:
        raise FormatError(
            f"the tensor {tensor_name(name)} is of type {quoted(stored.dtype)}; only F32, F16 and BF16 are supported.",
            f"张量{tensor_name(name, 'zh')}的类型为{quoted(stored.dtype, 'zh')}，只支持 F32、F16 和 BF16。",
            UnsupportedModel,
        )
    if len(stored.shape) < 2 or 0 in stored.shape or math.prod(stored.shape) * width != stored.size:
        raise _misshapen(name, stored.shape)
    return stored.shape


def read_gguf(path: Path) -> Adapter:
    """Read a GGUF adapter. Raises ModelProblem, also if the file is not a LoRA, or OSError."""
    header, entries = read_tensors(path)
    if header.kind != "adapter" or header.adapter not in ("", "lora"):
        raise UnsupportedModel(printable(path.name), _not_an_adapter(header))
    if _ALORA in header.numbers:
        raise UnsupportedModel(printable(path.name), _ACTIVATED)
    shapes = {entry.name: entry.shape for entry in entries}
    partners: dict[str, dict[str, str]] = {}
    others = []
    for name in shapes:
        if match := _GGUF_TENSOR.fullmatch(name):
            partners.setdefault(match[1], {})[match[2]] = name
        else:
            others.append(name)
    with as_model_problem(path.name):
        for entry in entries:
            _check_type(entry)
        pairs = tuple(_gguf_pair(module, names, shapes) for module, names in partners.items())
        return Adapter(_not_empty(pairs), tuple(others), entries[0].type, header)


def _not_an_adapter(header: GgufHeader) -> dict[str, str]:
    if header.kind in ("", "model"):
        return {
            "en": "this is a model, not a LoRA. Move it to the folder models/.",
            "zh": "这是模型，不是 LoRA，请移到 models/ 文件夹。",
        }
    kind = header.adapter or header.kind
    return {
        "en": f"this GGUF file is not a LoRA: its type is {quoted(kind)}.",
        "zh": f"此 GGUF 文件不是 LoRA，类型为{quoted(kind, 'zh')}。",
    }


_ACTIVATED: Words = {
    "en": "this is an activated LoRA (aLoRA), which acts only after certain tokens; llama.cpp would always apply it.",
    "zh": "这是 aLoRA，只应在特定词符之后生效，而 llama.cpp 会让它始终生效。",
}


def _check_type(entry: TensorEntry) -> None:
    if entry.type in _UNSUPPORTED_TYPES:
        raise FormatError(
            f"the tensor {tensor_name(entry.name)} is of type {entry.type}, which llama.cpp does not support here.",
            f"张量{tensor_name(entry.name, 'zh')}的类型为 {entry.type}，llama.cpp 不支持这种类型的 LoRA。",
            UnsupportedModel,
        )


def _gguf_pair(module: str, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Pair:
    a, b = _require_both(module, names.get("a"), names.get("b"))
    shape_a, shape_b = shapes[a], shapes[b]
    for name, shape in ((a, shape_a), (b, shape_b)):
        if len(shape) < 2 or shape[3:] not in ((), (1,)):
            raise _misshapen(name, shape)
    experts = math.prod(shape_a[2:])
    if experts != math.prod(shape_b[2:]):
        raise _misshapen(b, shape_b)
    embedding = module == "token_embd.weight"
    # llama.cpp stores the A of an embedding transposed.
    rank, inputs = (shape_a[0], shape_a[1]) if embedding else (shape_a[1], shape_a[0])
    return _check_rank(Pair(module, a, b, rank, inputs, shape_b[1], embedding, experts), shape_b[0])


def _require_both(module: str, a: str | None, b: str | None) -> tuple[str, str]:
    if a is None or b is None:
        missing = "A" if a is None else "B"
        raise FormatError(
            f"the tensor {missing} of {tensor_name(module)} is missing. Download the LoRA again.",
            f"{tensor_name(module, 'zh')}缺少张量 {missing}，请重新下载该 LoRA。",
        )
    return a, b


def _check_rank(pair: Pair, rank: int) -> Pair:
    if pair.rank != rank:
        raise FormatError(
            f"the tensors of {tensor_name(pair.module)} disagree: rank {pair.rank} in A, {rank} in B.",
            f"{tensor_name(pair.module, 'zh')}的张量不一致：A 的秩为 {pair.rank}，B 的秩为 {rank}。",
        )
    return pair


def _not_empty(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    if not pairs:
        raise FormatError(
            "there is no LoRA in it: no pair of tensors A and B.", "其中没有 LoRA：没有成对的张量 A 和 B。"
        )
    return pairs


def _misshapen(name: str, shape: tuple[int, ...]) -> FormatError:
    dimensions = list(shape)
    return FormatError(
        f"the tensor {tensor_name(name)} has invalid dimensions {dimensions}.",
        f"张量{tensor_name(name, 'zh')}的维度 {dimensions} 无效。",
    )


def _most_common_type(table: Mapping[str, StoredTensor]) -> str:
    types = [tensor.dtype for tensor in table.values()]
    return max(types, key=types.count, default="")
