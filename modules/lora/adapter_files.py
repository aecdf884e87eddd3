"""What the files of one LoRA say: PEFT's adapter_config.json and safetensors, or a GGUF adapter.

Source: LoraConfig and get_peft_model_state_dict in peft 0.21; the GGUF specification. A linear layer of `in` inputs and
`out` outputs is changed by B·A: A is [rank, in], B is [out, rank]; of an embedding, A is [rank, words] and B is
[width, rank].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import UnsupportedModel, Words
from modules.formats.checkpoint import Stored, read_json, read_table
from modules.formats.gguf_header import GgufHeader, read_tensors
from modules.formats.gguf_tensors import TensorEntry
from modules.system.bounded_reader import Flaw, brief, named, readable

_PREFIX = "base_model.model."
_PEFT_TENSOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
_GGUF_TENSOR = re.compile(r"(.+)\.lora_([ab])")
_BEYOND = (
    *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config"),
)
_HARMLESS = (True, False, "gaussian", "eva", "orthogonal")  # ways for a training to begin
_DEFAULT = 8  # of both rank and alpha, in PEFT
_LONGEST_NAME = 160
_LARGEST_RANK = 1 << 20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_CANNOT_MULTIPLY = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")  # with them llama.cpp's process would end
_ALORA = "adapter.alora.invocation_tokens"


@dataclass(frozen=True)
class Pair:
    """A and B of one module, such as "model.layers.0.self_attn.q_proj"; in GGUF "blk.0.attn_q.weight". `a` and `b` are
    the tensors' names in the file. Of an embedding the inputs are words. In GGUF, a tensor serves so many `experts`."""

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
    """PEFT's adapter_config.json. `ranks` and `alphas` are the exceptions to `rank` and `alpha`, by a pattern for
    modules; `stabilised`: scaled by the root of the rank (rsLoRA); `transposed`: the model keeps its weights as
    [in, out]; `beyond` names what it asks for besides A and B."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()
    base: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    alphas: Mapping[str, float] = field(default_factory=dict, hash=False)
    stabilised: bool = False
    transposed: bool = False
    beyond: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        return next((rank for key, rank in self.ranks.items() if _matches(key, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied by."""
        alpha = next((alpha for key, alpha in self.alphas.items() if _matches(key, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.stabilised else rank)


@dataclass(frozen=True)
class Adapter:
    """`others` are the names of the tensors that belong to no pair; `stored` is the type of the tensors, "F16", "BF16"
    or "F32", or one of GGUF's."""

    pairs: tuple[Pair, ...]
    others: tuple[str, ...]
    stored: str
    header: GgufHeader | None = None


def tensor_name(name: str) -> str:
    """Quoted for a sentence, at a length that names of modules have."""
    return brief(name, _LONGEST_NAME)


def read_config(path: Path) -> AdapterConfig:
    """ModelProblem, also for adapters of other kinds; OSError."""
    found = read_json(path)
    kind = found.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(readable(path.name), _not_a_lora(kind))
    targets = found.get("target_modules")
    rank, alpha = found.get("r", _DEFAULT), found.get("lora_alpha", _DEFAULT)
    if not _is_rank(rank) or not _is_number(alpha):
        raise UnsupportedModel(
            readable(path.name),
            {
                "en": f"r = {rank!r} or lora_alpha = {alpha!r} is no number.",
                "zh": f"r = {rank!r} 或 lora_alpha = {alpha!r} 不是有效数字。",
            },
        )
    bias = found.get("bias", "none") not in (None, "none")
    return AdapterConfig(
        rank=rank,
        alpha=float(alpha),
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(map(str, targets or ()))),
        base=readable(str(found.get("base_model_name_or_path") or "")),
        ranks={key: each for key, each in _patterns(found, "rank_pattern") if _is_rank(each)},
        alphas={key: float(each) for key, each in _patterns(found, "alpha_pattern") if _is_number(each)},
        stabilised=found.get("use_rslora") is True,
        transposed=found.get("fan_in_fan_out") is True,
        beyond=tuple(key for key in _BEYOND if found.get(key)) + (("bias",) if bias else ()) + _changes(found),
    )


def _changes(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes PEFT change the model's own weights before the adapter acts, such as PiSSA."""
    way = found.get("init_lora_weights")
    return () if way is None or way in _HARMLESS else ("init_lora_weights",)


def _not_a_lora(kind: object) -> dict[str, str]:
    if not isinstance(kind, str):
        return {
            "en": "it does not say what kind of adapter this is (peft_type); only PEFT's LoRA is supported.",
            "zh": "其中没有说明适配器的类型（peft_type）；此处仅支持 PEFT 的 LoRA。",
        }
    return {
        "en": f"this is an adapter of the kind {brief(kind)}; only LORA is supported.",
        "zh": f"这是 {brief(kind)} 类型的适配器；此处仅支持 LORA。",
    }


def _patterns(found: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    part = found.get(key)
    return iter(part.items() if isinstance(part, dict) else ())


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < _LARGEST_RANK


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _matches(pattern: str, module: str) -> bool:
    """As PEFT does it: the end of the module's name, as a regular expression."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


def read_peft(path: Path) -> Adapter:
    """The LoRA in a file adapter_model.safetensors. ModelProblem, OSError."""
    table = read_table(path)
    halves: dict[str, dict[str, str]] = {}
    others = []
    for name in table:
        if match := _PEFT_TENSOR.fullmatch(name):
            halves.setdefault(match[1], {})[match[3]] = name
        else:
            others.append(name)
    with named(path.name):
        pairs = tuple(_peft_pair(module, each, table) for module, each in halves.items())
        return Adapter(_some(pairs), tuple(others), _commonest(table))


def _peft_pair(module: str, halves: Mapping[str, str], table: Mapping[str, Stored]) -> Pair:
    a, b = _both(module, halves.get("A"), halves.get("B"))
    first, second = _checked(a, table[a]), _checked(b, table[b])
    pair = Pair(module.removeprefix(_PREFIX), a, b, first[0], first[1], second[0], ".lora_embedding_" in a)
    return _agreeing(pair, second[1])


def _checked(name: str, stored: Stored) -> tuple[int, ...]:
    """The shape. Flaw unless it has two dimensions or more, and as many bytes as it takes."""
    width = _WIDTHS.get(stored.dtype)
    if width is None:
        raise Flaw(
            f"the tensor {tensor_name(name)} is of type {brief(stored.dtype)}; F32, F16 and BF16 can be read.",
            f"张量 {tensor_name(name)} 的类型为 {brief(stored.dtype)}，只支持 F32、F16 和 BF16。",
            UnsupportedModel,
        )
    if len(stored.shape) < 2 or 0 in stored.shape or math.prod(stored.shape) * width != stored.size:
        raise _misshapen(name, stored.shape)
    return stored.shape


def read_gguf(path: Path) -> Adapter:
    """The LoRA in a GGUF file. ModelProblem, also if the file holds something else; OSError."""
    header, entries = read_tensors(path)
    if header.kind != "adapter" or header.adapter not in ("", "lora"):
        raise UnsupportedModel(readable(path.name), _no_adapter(header))
    if _ALORA in header.numbers:
        raise UnsupportedModel(readable(path.name), _ACTIVATED)
    shapes = {each.name: each.shape for each in entries}
    halves: dict[str, dict[str, str]] = {}
    others = []
    for name in shapes:
        if match := _GGUF_TENSOR.fullmatch(name):
            halves.setdefault(match[1], {})[match[2]] = name
        else:
            others.append(name)
    with named(path.name):
        for each in entries:
            _check_type(each)
        pairs = tuple(_gguf_pair(module, each, shapes) for module, each in halves.items())
        return Adapter(_some(pairs), tuple(others), entries[0].type, header)


def _no_adapter(header: GgufHeader) -> dict[str, str]:
    if header.kind in ("", "model"):
        return {
            "en": "this is a model, not a LoRA. It belongs into the folder models/.",
            "zh": "这是模型，不是 LoRA，应放入 models/ 文件夹。",
        }
    kind = brief(header.adapter or header.kind)
    return {"en": f"this GGUF file is no LoRA but of the kind {kind}.", "zh": f"此 GGUF 文件不是 LoRA，类型为 {kind}。"}


_ACTIVATED: Words = {
    "en": "this is an activated LoRA (aLoRA), which acts only after certain words; llama.cpp would let it act always.",
    "zh": "这是 aLoRA，只应在特定词语之后生效，而 llama.cpp 会让它始终生效。",
}


def _check_type(entry: TensorEntry) -> None:
    if entry.type in _CANNOT_MULTIPLY or not entry.size:
        raise Flaw(
            f"the tensor {tensor_name(entry.name)} is of type {entry.type}, with which llama.cpp cannot multiply.",
            f"张量 {tensor_name(entry.name)} 的类型为 {entry.type}，llama.cpp 无法用它做乘法。",
            UnsupportedModel,
        )


def _gguf_pair(module: str, halves: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Pair:
    a, b = _both(module, halves.get("a"), halves.get("b"))
    first, second = shapes[a], shapes[b]
    for name, shape in ((a, first), (b, second)):
        if len(shape) < 2 or shape[3:] not in ((), (1,)):
            raise _misshapen(name, shape)
    experts = math.prod(first[2:])
    if experts != math.prod(second[2:]):
        raise _misshapen(b, second)
    embedding = module == "token_embd.weight"  # of which llama.cpp takes A the other way round
    rank, inputs = (first[0], first[1]) if embedding else (first[1], first[0])
    return _agreeing(Pair(module, a, b, rank, inputs, second[1], embedding, experts), second[0])


def _both(module: str, a: str | None, b: str | None) -> tuple[str, str]:
    if a is None or b is None:
        lacking = "A" if a is None else "B"
        raise Flaw(
            f"{tensor_name(module)} has no {lacking}. Download it again.",
            f"{tensor_name(module)} 缺少 {lacking}。请重新下载。",
        )
    return a, b


def _agreeing(pair: Pair, rank: int) -> Pair:
    if pair.rank != rank:
        raise Flaw(
            f"the tensors of {tensor_name(pair.module)} contradict each other: rank {pair.rank} in A, {rank} in B.",
            f"{tensor_name(pair.module)} 的张量自相矛盾：A 的秩为 {pair.rank}，B 的秩为 {rank}。",
        )
    return pair


def _some(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    if not pairs:
        raise Flaw("there is no LoRA in it: no pair of A and B.", "其中没有 LoRA：没有成对的 A 和 B。")
    return pairs


def _misshapen(name: str, shape: tuple[int, ...]) -> Flaw:
    dimensions = list(shape)
    return Flaw(
        f"the tensor {tensor_name(name)} has the impossible dimensions {dimensions}.",
        f"张量 {tensor_name(name)} 的维度 {dimensions} 不可能成立。",
    )


def _commonest(table: Mapping[str, Stored]) -> str:
    types = [each.dtype for each in table.values()]
    return max(types, key=types.count, default="")
