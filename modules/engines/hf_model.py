"""A model of transformers with its tokenizer: loaded by the calls of `hf_arguments`, asked for logits and texts."""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from modules.engines.hf_arguments import SEQ2SEQ, TOKENIZER, model_call
from modules.errors import OptionError
from modules.events import Json, Logprob, TokenChances


class Interrupted(Exception):
    """Somebody wants something more urgent. What the cache holds is unequal from layer to layer."""


_KEYWORDS = ("logits_to_keep", "position_ids", "attention_mask")
# Once a layer and token, that numbers were converted.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


class Model:
    """Not for several threads, but for `encode` and `decode`, which any may call."""

    def __init__(self, path: Path, calls: Mapping[str, Json], advance: Callable[[float], None]) -> None:
        self._locked = threading.Lock()
        self.tokenizer = _tokenizer(calls[TOKENIZER])
        name, args = model_call(calls)
        with _progress(advance):
            loaded = getattr(transformers, name).from_pretrained(**_as_python(args), output_loading_info=True)
        self.module: Any = loaded[0]
        _check_whole(self.module, sorted(loaded[1]["missing_keys"]))
        self.module.eval()
        self.writes_apart = name == SEQ2SEQ
        """Whether it reads the prompt in one part and writes the answer, from its first token on, in another."""
        taken = inspect.signature(self.module.forward).parameters
        self._takes = {word for word in _KEYWORDS if word in taken}
        self._cache_word = "past_key_values" if "past_key_values" in taken else "cache_params"
        self.config = self.module.config.get_text_config(decoder=True)
        self.device = torch.device(self.module.device)
        self.ends = frozenset(self._end_tokens())
        self.size = int(self.module.get_output_embeddings().weight.shape[0])
        self._wanted_elsewhere = self._may_break_off = False
        for layer in _layers(self.module):
            layer.register_forward_pre_hook(self._look_up)
        self._fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()

    def _end_tokens(self) -> Iterator[int]:
        told = self.module.generation_config.eos_token_id if self.module.generation_config else None
        for each in (told, self.tokenizer.eos_token_id):
            yield from each if isinstance(each, list) else [] if each is None else [each]

    @property
    def places(self) -> list[str]:
        """Where its parts are, by the names of devices, as accelerate has shared them out."""
        return [str(place) for place in getattr(self.module, "hf_device_map", {}).values()]

    @property
    def can_batch(self) -> bool:
        """Whether answers of different lengths can be padded to be written together."""
        return "attention_mask" in self._takes and not self.writes_apart

    # -- texts ----------------------------------------------------------------------------------------------------

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The tokens of `text`, with those around it that the model wants; none of them twice at the beginning."""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        if self._fast is not None:  # never a method that sets its state: then no other thread may look at it
            tokens: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        else:
            with self._locked:
                tokens = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return tokens[1:] if special and bos is not None and tokens[:2] == [bos, bos] else tokens

    def decode(self, tokens: Sequence[int], special: bool) -> str:
        """Their text; what only marks something by its name if `special`, else left out."""
        if self._fast is not None:
            text: str = self._fast.decode(tokens, skip_special_tokens=not special)
            return text
        with self._locked:
            words = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
            text = self.tokenizer.decode(list(tokens), **words)
            return text

    def check_token(self, option: str, token: int) -> None:
        if not 0 <= token < len(self.tokenizer):
            last = len(self.tokenizer) - 1
            raise OptionError(option, token, {"en": f"tokens from 0 to {last}", "zh": f" 0 到 {last} 之间的词符编号"})

    def special(self, which: str) -> str:
        """The text of the "bos" or "eos" token, "" if there is none."""
        return str(getattr(self.tokenizer, f"{which}_token") or "")

    @property
    def chat_template(self) -> str:
        template = self.tokenizer.chat_template
        return (template.get("default", "") if isinstance(template, dict) else template) or ""

    # -- evaluating -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: Any, source: Any = None, last: int = 1) -> Tensor:
        """Evaluate `tokens` after what `cache` holds; the logits after the `last` ones, shape (last, size), float32.

        `source` is what `read` made of the prompt, for a model that writes apart.
        """
        ids = torch.tensor([tokens], device=self.device)
        word = "decoder_input_ids" if self.writes_apart else "input_ids"
        return self._logits({word: ids}, cache, source, last)[0]

    def interrupt(self, wanted: bool) -> None:
        """From any thread: have `forward_or_break_off` end early, until it is not wanted any more."""
        self._wanted_elsewhere = wanted

    def forward_or_break_off(self, tokens: Sequence[int], cache: Any, source: Any = None) -> Tensor:
        """`forward`, which takes long for many tokens; or Interrupted, after the layer under way."""
        self._may_break_off = True
        try:
            return self.forward(tokens, cache, source)
        finally:
            self._may_break_off = False

    def _look_up(self, *_: object) -> None:
        if self._wanted_elsewhere and self._may_break_off:
            raise Interrupted

    def forward_padded(self, tokens: Sequence[int], starts: Sequence[int], end: int, cache: Any) -> Tensor:
        """One token a row; row r of the cache holds something from place `starts[r]` to place `end`.
        Shape (rows, size)."""
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
        """The prompt as the part that reads passes it on. Only for a model that writes apart."""
        with torch.inference_mode():
            return self.module.get_encoder()(torch.tensor([tokens], device=self.device), return_dict=True)

    @property
    def first_written(self) -> int:
        """The token that the part that writes begins with."""
        for config in (self.module.generation_config, self.module.config):
            for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
                if getattr(config, key, None) is not None:
                    return int(getattr(config, key))
        return 0

    def chances(self, logits: Tensor, token: int, top: int) -> TokenChances:
        """How likely `token` was by these logits (of one row, before any sampler), and the `top` likeliest."""
        logprobs = logits.double().log_softmax(dim=-1)
        values, best = logprobs.topk(top)
        ranked = (self._chance(each, value) for each, value in zip(best.tolist(), values.tolist(), strict=True))
        return TokenChances(self._chance(token, float(logprobs[token])), tuple(ranked))

    def _chance(self, token: int, logprob: float) -> Logprob:
        known = token < len(self.tokenizer)  # there may be more logits than tokens
        return Logprob(self.decode([token], special=True) if known else "", round(logprob, 6))


class Words:
    """The tokens of one answer, one after the other, as bytes of UTF-8: whole characters only.

    Some tokenizers write a token otherwise where a text begins, so each is decoded together with those before it.
    """

    def __init__(self, model: Model, prompt: Sequence[int], special: bool) -> None:
        self._model, self._special = model, special
        self._tokens = list(prompt[-_LOOK_BACK:])
        self._begin, self._end = 0, len(self._tokens)

    def feed(self, token: int) -> bytes:
        self._tokens.append(token)
        before, now = self._text(self._end), self._text(len(self._tokens))
        if now.endswith("\ufffd") and len(self._tokens) - self._end < _LONGEST_CHARACTER:
            return b""
        self._begin, self._end = self._end, len(self._tokens)
        return now[len(before) :].encode("utf-8", "replace")

    def rest(self) -> bytes:
        """Of a character that never became whole."""
        return self._text(len(self._tokens))[len(self._text(self._end)) :].encode("utf-8", "replace")

    def _text(self, end: int) -> str:
        return self._model.decode(self._tokens[self._begin : end], self._special)


_LOOK_BACK, _LONGEST_CHARACTER = 6, 5  # tokens; a character has four bytes at most


def _layers(module: Any) -> Iterable[Any]:
    """The blocks that do most of the work, one after the other."""
    lists = (each for each in module.modules() if isinstance(each, torch.nn.ModuleList))
    return max(lists, key=len, default=())


# -- loading -----------------------------------------------------------------------------------------------------------


def _tokenizer(args: Mapping[str, Json]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(**args)


def _as_python(args: Mapping[str, Json]) -> dict[str, Any]:
    """What JSON cannot say: see `hf_arguments`."""
    made = dict(args)
    if "max_memory" in made:
        limits = made["max_memory"].items()
        made["max_memory"] = {int(device) if device.isdigit() else device: size for device, size in limits}
    if "quantization_config" in made:
        config = dict(made["quantization_config"])
        gptq = config.pop("quant_method") == "gptq"
        made["quantization_config"] = (transformers.GPTQConfig if gptq else transformers.BitsAndBytesConfig)(**config)
    return made


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
