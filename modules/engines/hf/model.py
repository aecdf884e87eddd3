"""A model of transformers with its tokenizer, loaded by the calls of `arguments`."""

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
from modules.engines.hf.evaluator import Evaluator, Interrupted, PrefixStore
from modules.engines.hf.limits import PREFILL_CHUNK_8BIT
from modules.engines.hf.long_rope import LongRope

_OPTIONAL_ARGUMENTS = ("logits_to_keep", "position_ids", "attention_mask")
_CACHE_ARGUMENTS = ("past_key_values", "cache_params")
# It warns once a layer and token that values were converted to another dtype.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


class Model(Evaluator):
    """A text model of transformers, version 4 or 5. `name` is the loader's, `module` the model itself.

    Raises ValueError for a model that takes no cache, of which every token would be the first.
    """

    def __init__(self, name: str, tokenizer: Any, module: Any, is_encoder_decoder: bool = False) -> None:
        super().__init__(tokenizer)
        self.name, self.module, self.is_encoder_decoder = name, module, is_encoder_decoder
        self.module.eval()
        if getattr(self.module, "is_loaded_in_8bit", False):
            self.prefill_chunk = PREFILL_CHUNK_8BIT
        parameters = inspect.signature(self.module.forward).parameters
        self._accepted = {name for name in _OPTIONAL_ARGUMENTS if name in parameters}
        self.input_names = frozenset(parameters) - {"attention_mask"}
        """What a forward pass takes. A mask is not needed: a prompt alone has no padding."""
        # The vision models with M-RoPE keep the shift of the prompt that they have seen last, whatever they see next.
        self._shifted_parts = [part for part in self.module.modules() if hasattr(part, "rope_deltas")]
        self._position_shift: Any = None
        self._long_rope = LongRope(self.module)
        self.short_text = self._long_rope.limit
        self.computes_all_logits = "logits_to_keep" not in self._accepted
        self.can_batch = "attention_mask" in self._accepted and not is_encoder_decoder
        if is_encoder_decoder:
            self.encoder_positions = _encoder_positions(self.module.config)
        self._cache_argument = next((name for name in _CACHE_ARGUMENTS if name in parameters), "")
        if not self._cache_argument:
            raise ValueError(f"{type(module).__name__} takes no KV cache")
        self.config = self.module.config.get_text_config(decoder=True)
        self.device = _input_device(self.module)
        self.eos_tokens = frozenset(self._configured_eos_tokens())
        self.vocab_size = int(self.module.get_output_embeddings().weight.shape[0])
        # Some models with recurrent layers, such as Bamba, count positions from 0 at every token otherwise.
        states_positions = "position_ids" in self._accepted and not self._shifted_parts
        cache = kv_cache.new_cache(self.config, is_encoder_decoder)
        self._needs_positions = states_positions and kv_cache.has_recurrent_state(cache)
        self._interrupt_requested = self._is_interruptible = False
        for layer in _layers(self.module):
            layer.register_forward_pre_hook(self._raise_if_interrupted)

    def _configured_eos_tokens(self) -> Iterator[int]:
        configured = self.module.generation_config.eos_token_id if self.module.generation_config else None
        for eos in (configured, self.tokenizer.eos_token_id):
            yield from eos if isinstance(eos, list) else [] if eos is None else [eos]

    @property
    def devices(self) -> list[str]:
        """The device of every part of the model as accelerate distributed them: "0", "cpu", "disk"."""
        return [str(device) for device in getattr(self.module, "hf_device_map", {}).values()]

    # -- forward passes -------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1) -> Tensor:
        ids = torch.tensor([tokens], device=self.device)
        argument = "decoder_input_ids" if self.is_encoder_decoder else "input_ids"
        inputs = {argument: ids}
        if self._needs_positions:
            begin = cache.get_seq_length()
            inputs["position_ids"] = torch.arange(begin, begin + len(tokens), device=self.device)[None]
        return self._logits(inputs, cache, encoder_output, last)[0]

    def interrupt(self, requested: bool) -> None:
        self._interrupt_requested = requested

    def forward_interruptible(
        self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1
    ) -> Tensor:
        """Abort after the layer being computed; the layers of the cache then hold different numbers of tokens."""
        self._is_interruptible = True
        try:
            return self.forward(tokens, cache, encoder_output, last)
        finally:
            self._is_interruptible = False

    def forward_images(self, inputs: Mapping[str, Tensor], cache: Any) -> tuple[Tensor, Any]:
        """Evaluate a whole prompt with pictures into an empty cache, given what the model's processor has made of it.

        Return the logits after it, float32 [1, vocabulary], and what `positions_shifted` takes. Raises Interrupted
        after `interrupt`.
        """
        moved = {
            name: value.to(self.device, self.module.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        self._is_interruptible = True
        try:
            logits = self._logits(moved, cache, None, 1)[0]
        finally:
            self._is_interruptible = False
        return logits, next((part.rope_deltas for part in self._shifted_parts), None)

    def long_text(self, is_long: bool) -> contextlib.AbstractContextManager[None]:
        return self._long_rope.long(is_long)

    @contextlib.contextmanager
    def positions_shifted(self, shift: Any) -> Iterator[None]:
        """Have forward passes continue a prompt for which `forward_images` has returned `shift`."""
        self._position_shift = shift
        try:
            yield
        finally:
            self._position_shift = None

    def _raise_if_interrupted(self, *_: object) -> None:
        if self._interrupt_requested and self._is_interruptible:
            raise Interrupted

    def forward_batch(self, tokens: Sequence[int], starts: Sequence[int], end: int, cache: Any) -> Tensor:
        inputs = {"input_ids": torch.tensor(tokens, device=self.device)[:, None]}
        if any(starts):
            begin = torch.tensor(starts, device=self.device)[:, None]
            inputs["attention_mask"] = (torch.arange(end + 1, device=self.device)[None] >= begin).long()
            if "position_ids" in self._accepted:
                inputs["position_ids"] = end - begin
        return self._logits(inputs, cache, None, 1)[:, 0]

    def _logits(self, inputs: dict[str, Any], cache: Any, encoder_output: Any, last: int) -> Tensor:
        """Return logits, float32 [batch, last, vocabulary]."""
        if "logits_to_keep" in self._accepted:
            inputs["logits_to_keep"] = last
        if encoder_output is not None:
            inputs["encoder_outputs"] = encoder_output
        for part in self._shifted_parts:
            part.rope_deltas = self._position_shift
        with torch.inference_mode():
            out = self.module(use_cache=True, return_dict=True, **{self._cache_argument: cache}, **inputs)
            logits: Tensor = out.logits[:, -last:].float()
        return logits

    def run_encoder(self, tokens: Sequence[int]) -> Any:
        with torch.inference_mode():
            return self.module.get_encoder()(torch.tensor([tokens], device=self.device), return_dict=True)

    @property
    def decoder_start_token(self) -> int:
        for config in (self.module.generation_config, self.module.config):
            for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
                if getattr(config, key, None) is not None:
                    return int(getattr(config, key))
        return 0

    # -- caches ---------------------------------------------------------------------------------------------------

    def new_cache(self) -> Any:
        return kv_cache.new_cache(self.config, self.is_encoder_decoder)

    def new_prefix_store(self, max_bytes: int) -> PrefixStore:
        return kv_cache.PrefixCache(self.new_cache, max_bytes)

    def truncate(self, cache: Any, length: int) -> tuple[Any, int]:
        return (cache, length) if kv_cache.truncate(cache, length) else (self.new_cache(), 0)

    def can_truncate(self, cache: Any) -> bool:
        return kv_cache.is_growable(cache)

    def must_prefill_at_once(self, cache: Any) -> bool:
        return kv_cache.has_recurrent_state(cache)


def compute_logits_in_float32(module: Any) -> None:
    """Have the last layer of a 16-bit model give logits in float32. The whole model must be in main memory.

    In 16 bits a logit of 20 has few neighbors: the likeliest tokens would often be equal, and a CPU does not always
    round the same.
    """
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    model_dtype = head.weight.dtype
    for parameter in head.parameters():
        parameter.data = parameter.data.float()
    head.register_forward_pre_hook(lambda _head, args: (args[0].float(), *args[1:]))
    if embeddings.weight is head.weight:
        embeddings.register_forward_hook(lambda _embeddings, _args, out: out.to(model_dtype))


def _input_device(module: Any) -> torch.device:
    """Return the device for input tokens: where accelerate computes, if the first weights are offloaded to disk."""
    device = torch.device(module.device)
    return device if device.type != "meta" else torch.device(module._hf_hook.execution_device)


def _encoder_positions(config: Any) -> int | None:
    """Return how many positions an encoder has. T5's are relative, and have no end."""
    names = ("max_encoder_position_embeddings", "max_position_embeddings")
    return next((int(found) for name in names if (found := getattr(config, name, None))), None)


def _layers(module: Any) -> Iterable[Any]:
    """Return the transformer blocks: the longest list of modules, and that of the decoder beside a vision tower."""
    parts = [module, module.get_decoder()] if hasattr(module, "get_decoder") else [module]
    lists = ([child for child in part.modules() if isinstance(child, torch.nn.ModuleList)] for part in parts if part)
    return dict.fromkeys(layer for found in lists for layer in max(found, key=len, default=()))


# -- loading -----------------------------------------------------------------------------------------------------------


def load_model(calls: Mapping[str, Json], advance: Callable[[float], None]) -> Model:
    """Load the model and tokenizer by `calls`; `advance` gets the fraction of tensors loaded, from 0 to 1."""
    tokenizer = load_tokenizer(calls[TOKENIZER])
    name, args = model_call(calls)
    with progress_of_weights(advance):
        module, info = getattr(transformers, name).from_pretrained(**python_arguments(args), output_loading_info=True)
    _check_complete(module, sorted(info["missing_keys"]))
    return Model("Transformers", tokenizer, module, is_encoder_decoder=name == SEQ2SEQ)


def load_tokenizer(args: Mapping[str, Json]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(**args)


_QUANTIZATION_CONFIGS = {
    "gptq": transformers.GPTQConfig,
    "awq": transformers.AwqConfig,
    "bitsandbytes": transformers.BitsAndBytesConfig,
}


def python_arguments(args: Mapping[str, Json]) -> dict[str, Any]:
    """Convert the arguments of a call from JSON to what `from_pretrained` takes."""
    converted = dict(args)
    if "max_memory" in converted:
        converted["max_memory"] = max_memory_by_device(converted["max_memory"])
    if "quantization_config" in converted:
        config = dict(converted["quantization_config"])
        converted["quantization_config"] = _QUANTIZATION_CONFIGS[config.pop("quant_method")](**config)
    return converted


def max_memory_by_device(limits: Mapping[str, int]) -> dict[int | str, int]:
    """Turn the keys of GPUs into numbers, which JSON keys cannot be. Sizes are bytes."""
    return {int(device) if device.isdigit() else device: size for device, size in limits.items()}


def _check_complete(module: Any, missing: Sequence[str]) -> None:
    """Raise ValueError if a tensor was missing, which transformers would fill at random.

    Third-party kernels are exempt, as they name their tensors as they like.
    """
    quantizer = getattr(module, "hf_quantizer", None)
    is_third_party = quantizer is not None and not type(quantizer).__name__.startswith("Bnb")
    if missing and not is_third_party:
        raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")


@contextlib.contextmanager
def progress_of_weights(advance: Callable[[float], None]) -> Iterator[None]:
    """Replace the progress bars of transformers by calls of `advance`."""
    log: Any = transformers.utils.logging
    before = log.set_tqdm_hook(lambda _bar, args, keywords: _Bar(advance, *args, **keywords))
    try:
        yield
    finally:
        log.set_tqdm_hook(before)


class _Bar:
    """A stand-in for tqdm that reports the bar over all tensors and ignores all others."""

    def __init__(
        self, advance: Callable[[float], None], iterable: Iterable[Any] = (), desc: str = "", **_: object
    ) -> None:
        self._advance, self._items, self._reports = advance, iterable, desc == "Loading weights"

    def __iter__(self) -> Iterator[Any]:
        items = list(self._items)
        for done, item in enumerate(items, 1):
            yield item
            if self._reports:
                self._advance(done / len(items))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...

    def close(self) -> None: ...
