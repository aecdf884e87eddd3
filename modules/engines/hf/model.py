"""A model of transformers with its tokenizer: loaded by the calls of `hf_arguments`, asked for logits and texts."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from modules.core.events import Json
from modules.engines.hf import kv_cache
from modules.engines.hf.arguments import SEQ2SEQ, TOKENIZER, model_call
from modules.engines.hf.token_text import Evaluator, Interrupted

_KEYWORDS = ("logits_to_keep", "position_ids", "attention_mask")
PIECE_OF_8_BITS = 256  # reads as fast as 512 and leaves half the gaps in the heap, see `estimate_hf`
# Once a layer and token, that numbers were converted.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


class Model(Evaluator):
    """`name` is the loader's; `module` one of transformers' models that write text, of version 4 or 5."""

    def __init__(self, name: str, tokenizer: Any, module: Any, writes_apart: bool = False) -> None:
        super().__init__(tokenizer)
        self.name, self.module, self.writes_apart = name, module, writes_apart
        self.module.eval()
        if getattr(self.module, "is_loaded_in_8bit", False):
            self.piece = PIECE_OF_8_BITS
        taken = inspect.signature(self.module.forward).parameters
        self._takes = {word for word in _KEYWORDS if word in taken}
        self.can_batch = "attention_mask" in self._takes and not self.writes_apart
        self._cache_word = "past_key_values" if "past_key_values" in taken else "cache_params"
        self.config = self.module.config.get_text_config(decoder=True)
        self.device = _input_device(self.module)
        self.ends = frozenset(self._end_tokens())
        self.size = int(self.module.get_output_embeddings().weight.shape[0])
        self._wanted_elsewhere = self._may_break_off = False
        for layer in _layers(self.module):
            layer.register_forward_pre_hook(self._look_up)

    def _end_tokens(self) -> Iterator[int]:
        told = self.module.generation_config.eos_token_id if self.module.generation_config else None
        for each in (told, self.tokenizer.eos_token_id):
            yield from each if isinstance(each, list) else [] if each is None else [each]

    @property
    def places(self) -> list[str]:
        """Where its parts are, by the names of devices, as accelerate has shared them out."""
        return [str(place) for place in getattr(self.module, "hf_device_map", {}).values()]

    # -- evaluating -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: Any, source: Any = None, last: int = 1) -> Tensor:
        ids = torch.tensor([tokens], device=self.device)
        word = "decoder_input_ids" if self.writes_apart else "input_ids"
        return self._logits({word: ids}, cache, source, last)[0]

    def interrupt(self, wanted: bool) -> None:
        self._wanted_elsewhere = wanted

    def forward_or_break_off(self, tokens: Sequence[int], cache: Any, source: Any = None) -> Tensor:
        """It ends after the layer under way: what the cache holds is then unequal from layer to layer."""
        self._may_break_off = True
        try:
            return self.forward(tokens, cache, source)
        finally:
            self._may_break_off = False

    def _look_up(self, *_: object) -> None:
        if self._wanted_elsewhere and self._may_break_off:
            raise Interrupted

    def forward_padded(self, tokens: Sequence[int], starts: Sequence[int], end: int, cache: Any) -> Tensor:
        more = {"input_ids": torch.tensor(tokens, device=self.device)[:, None]}
        if any(starts):
            begin = torch.tensor(starts, device=self.device)[:, None]
            more["attention_mask"] = (torch.arange(end + 1, device=self.device)[None] >= begin).long()
            if "position_ids" in self._takes:
                more["position_ids"] = end - begin
        return self._logits(more, cache, None, 1)[:, 0]

    def _logits(self, inputs: dict[str, Any], cache: Any, source: Any, last: int) -> Tensor:
        """Shape (rows, last, size)."""
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = last
        if source is not None:
            inputs["encoder_outputs"] = source
        with torch.inference_mode():
            out = self.module(use_cache=True, return_dict=True, **{self._cache_word: cache}, **inputs)
            logits: Tensor = out.logits[:, -last:].float()
        return logits

    def read(self, tokens: Sequence[int]) -> Any:
        with torch.inference_mode():
            return self.module.get_encoder()(torch.tensor([tokens], device=self.device), return_dict=True)

    @property
    def first_written(self) -> int:
        for config in (self.module.generation_config, self.module.config):
            for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
                if getattr(config, key, None) is not None:
                    return int(getattr(config, key))
        return 0

    # -- what was computed ----------------------------------------------------------------------------------------

    def fresh(self) -> Any:
        return kv_cache.fresh(self.config, self.writes_apart)

    def shelf(self, budget: int) -> kv_cache.Shelf:
        return kv_cache.Shelf(self.fresh, budget)

    def cut_back(self, cache: Any, length: int) -> tuple[Any, int]:
        return (cache, length) if kv_cache.cut_back(cache, length) else (self.fresh(), 0)

    def can_cut(self, cache: Any) -> bool:
        return kv_cache.grows(cache)

    def sums_up(self, cache: Any) -> bool:
        return kv_cache.sums_up(cache)


def output_in_floats(module: Any) -> None:
    """Of a model in 16 bits, all in main memory: have its last layer give logits in float32.

    In 16 bits a logit of 20 has few neighbours: the likeliest tokens would often be equal, and a CPU does not always
    round the same."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    narrow = head.weight.dtype
    for parameter in head.parameters():
        parameter.data = parameter.data.float()
    head.register_forward_pre_hook(lambda _head, args: (args[0].float(), *args[1:]))
    if embeddings.weight is head.weight:
        embeddings.register_forward_hook(lambda _embeddings, _args, out: out.to(narrow))


def _input_device(module: Any) -> torch.device:
    """Where tokens go. Of a module whose first weights stay on disk, where accelerate computes with them."""
    device = torch.device(module.device)
    return device if device.type != "meta" else torch.device(module._hf_hook.execution_device)


def _layers(module: Any) -> Iterable[Any]:
    """The blocks that do most of the work, one after the other."""
    lists = (each for each in module.modules() if isinstance(each, torch.nn.ModuleList))
    return max(lists, key=len, default=())


# -- loading -----------------------------------------------------------------------------------------------------------


def loaded(calls: Mapping[str, Json], advance: Callable[[float], None]) -> Model:
    """What the calls of Transformers give; `advance` is told the part that is done, from 0 to 1."""
    tokenizer = tokenizer_of(calls[TOKENIZER])
    name, args = model_call(calls)
    with _progress(advance):
        module, info = getattr(transformers, name).from_pretrained(**_as_python(args), output_loading_info=True)
    _check_whole(module, sorted(info["missing_keys"]))
    return Model("Transformers", tokenizer, module, writes_apart=name == SEQ2SEQ)


def tokenizer_of(args: Mapping[str, Json]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(**args)


_CONFIGS = {
    "gptq": transformers.GPTQConfig,
    "awq": transformers.AwqConfig,
    "bitsandbytes": transformers.BitsAndBytesConfig,
}


def _as_python(args: Mapping[str, Json]) -> dict[str, Any]:
    """What JSON cannot say: see `hf_arguments`."""
    made = dict(args)
    if "max_memory" in made:
        made["max_memory"] = by_device(made["max_memory"])
    if "quantization_config" in made:
        config = dict(made["quantization_config"])
        made["quantization_config"] = _CONFIGS[config.pop("quant_method")](**config)
    return made


def by_device(limits: Mapping[str, int]) -> dict[int | str, int]:
    """With the numbers that JSON has no keys of."""
    return {int(device) if device.isdigit() else device: size for device, size in limits.items()}


def _check_whole(module: Any, missing: Sequence[str]) -> None:
    """transformers makes up at random what it does not find. Kernels of others name their tensors as they like."""
    quantiser = getattr(module, "hf_quantizer", None)
    foreign = quantiser is not None and not type(quantiser).__name__.startswith("Bnb")
    if missing and not foreign:
        raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")


@contextlib.contextmanager
def _progress(advance: Callable[[float], None]) -> Iterator[None]:
    """transformers shows its progress by bars; for as long as this lasts they tell us theirs."""
    log: Any = transformers.utils.logging
    before = log.set_tqdm_hook(lambda _bar, args, words: _Bar(advance, *args, **words))
    try:
        yield
    finally:
        log.set_tqdm_hook(before)


class _Bar:
    """What we put in the place of such a bar. Only the one over all tensors counts."""

    def __init__(
        self, advance: Callable[[float], None], iterable: Iterable[Any] = (), desc: str = "", **_: object
    ) -> None:
        self._advance, self._items, self._counts = advance, iterable, desc == "Loading weights"

    def __iter__(self) -> Iterator[Any]:
        items = list(self._items)
        for done, item in enumerate(items, 1):
            yield item
            if self._counts:
                self._advance(done / len(items))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...

    def close(self) -> None: ...
