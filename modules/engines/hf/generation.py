"""One request of the transformers engine: its tokens, how the next one is sampled, and its text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modules.core.events import Done, Event, Json, Progress, Result, Text
from modules.engines import next_token
from modules.engines.hf.batch import TokenSequence
from modules.engines.hf.evaluator import Evaluator, token_logprobs
from modules.engines.hf.sampling.pipeline import (
    apply_guidance,
    build_processors,
    first_token_chances,
    new_generator,
    sample_token,
)
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.hf.token_text import Detokenizer
from modules.engines.prompt_lookup import PromptLookup
from modules.engines.text_stream import TextStream


class Generation:
    """One request. `sequence` holds the tokens of the prompt and then those sampled, `negative` the negative prompt and
    then the same answer. `text_tokens` returns those tokens that samplers take account of, if these are not all."""

    def __init__(
        self,
        call: int,
        prompt: list[int],
        negative: TokenSequence | None,
        params: Mapping[str, Json],
        model: Evaluator,
        vocabulary: Vocabulary,
        context: int,
        text_tokens: Callable[[Sequence[int]], list[int]] | None = None,
    ) -> None:
        self.call, self.prompt, self.negative, self.params = call, prompt, negative, params
        self._text_tokens = text_tokens
        self.sequence = TokenSequence([], None)  # until the request is admitted
        self.queue_position = 0
        self.cached_tokens = self.completion_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.negative_logits: Tensor | None = None  # after the last token of `negative`, float32 [1, vocabulary]
        self.candidates = next_token.candidate_count(params)
        self._model, self._vocabulary, self._context = model, vocabulary, context
        self._stream = TextStream(params["stop"])
        preceding = [] if model.is_encoder_decoder else prompt
        self._detokenizer = Detokenizer(model, preceding, not params["skip_special_tokens"], params.get("visible", ()))
        self._generator = new_generator(params, model.device)
        self._processors = self._build_processors(params)
        self._lookup: PromptLookup | None = None
        self._token_ids = torch.empty(1, 0, dtype=torch.long, device=model.device)
        self._submitted = self._prefilled = time.monotonic()

    def _build_processors(self, params: Mapping[str, Json]) -> Any:
        return build_processors(
            params,
            prompt_tokens=self._text_tokens(self.prompt) if self._text_tokens else self.prompt,
            vocabulary=self._vocabulary,
            eos=sorted(self._model.eos_tokens),
            device=self._model.device,
            generator=self._generator,
        )

    @property
    def prefill_progress(self) -> Progress:
        total = len(self.prompt) - self.cached_tokens
        return Progress("prompt", (self.sequence.evaluated - self.cached_tokens) / max(total, 1))

    def end_prefill(self) -> None:
        """Start the clock of decoding, unless it runs."""
        if not self.completion_tokens:
            self._prefilled = time.monotonic()

    def draft(self) -> list[int]:
        """Return draft tokens by prompt lookup, as many as the parameters ask for and the answer may still take."""
        wanted = self.params["prompt_lookup_num_tokens"]
        room = self._context - len(self.sequence.tokens)
        short = self._model.short_text
        if short is not None and not self.sequence.is_long:
            room = min(room, short - len(self.sequence.tokens))
        if limit := self.params["max_new_tokens"]:
            room = min(room, limit - self.completion_tokens - 1)
        if not wanted or room <= 0:
            return []
        if self._lookup is None or self._lookup.tokens is not self.sequence.tokens:
            self._lookup = PromptLookup(self.sequence.tokens)
        self._lookup.update()
        return self._lookup.draft(min(wanted, room))

    def sample(self, logits: Tensor) -> tuple[Text | None, str]:
        """Sample the next token from `logits`, float32 [1, vocabulary].

        Return the text that may be shown now, and the reason if the answer ends with this token, else "". Raises
        NoTokenLeft.
        """
        token = self._sample_token(logits)
        self.completion_tokens += 1
        if token in self._model.eos_tokens:
            return None, "stop"
        top = self.params["top_logprobs"]
        logprobs = None if top is None else token_logprobs(self._model, logits[0], token, top)
        text = self._stream.feed(self._detokenizer.feed(token), logprobs)
        self.sequence.tokens.append(token)
        if self._stream.stopped:
            return text, "stop"
        negative_tokens = self.negative.tokens if self.negative is not None else ()
        context_full = max(len(self.sequence.tokens), len(negative_tokens) + 1) > self._context
        limit_reached = self.completion_tokens == self.params["max_new_tokens"]
        return text, "length" if context_full or limit_reached else ""

    def finish(self, reason: str) -> Iterator[Event]:
        """Yield the text that was held back, then the end of the generation."""
        text = self._stream.finish(self._detokenizer.flush())
        if text is not None:
            yield text
        yield Done(
            reason,
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            prompt_seconds=self._prefilled - self._submitted,
            decode_seconds=time.monotonic() - self._prefilled,
            stop_string=self._stream.stop_string,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )

    def next_tokens(self, logits: Tensor) -> Result:
        """Return the most likely tokens after the prompt, by `logits` [1, vocabulary] and after the samplers.

        Raises NoTokenLeft.
        """
        model, guided = self._model, self._guided(logits)
        chances = first_token_chances(self.params, self._build_processors, self._all_token_ids(), guided)
        values, tokens = chances[0].topk(self.candidates)
        likely = [pair for pair in zip(tokens.tolist(), values.tolist(), strict=True) if pair[1] > 0]
        plain = token_logprobs(model, logits[0], likely[0][0], self.candidates).top
        return next_token.result(plain, likely, model.shown_text)

    def _sample_token(self, logits: Tensor) -> int:
        logits = self._guided(logits)
        if len(self._processors):
            logits = self._processors(self._all_token_ids(), logits)
        return int(sample_token(logits, self.params, self._generator))

    def _guided(self, logits: Tensor) -> Tensor:
        if self.negative is None:
            return logits
        return apply_guidance(logits, self._next_negative_logits(), self.params["guidance_scale"])

    def _all_token_ids(self) -> Tensor:
        """Return all tokens so far, those of the prompt included, int64 [1, tokens]."""
        count = self._token_ids.shape[1]
        tokens = self.sequence.tokens
        if self._model.is_encoder_decoder:
            tokens = [*self.prompt, *tokens[1:]]
        if self._text_tokens is not None:
            tokens = self._text_tokens(tokens)
        new = torch.tensor([tokens[count:]], dtype=torch.long, device=self._model.device)
        self._token_ids = torch.cat([self._token_ids, new], dim=1)
        return self._token_ids

    def _next_negative_logits(self) -> Tensor:
        """Return the logits of the same answer after the negative prompt, which was prefilled before the prompt."""
        negative = self.negative
        assert negative is not None and self.negative_logits is not None
        if self.completion_tokens:
            negative.tokens.append(self.sequence.tokens[-1])
            if negative.evaluated == self._model.short_text and not negative.is_long:
                negative.cache, negative.evaluated, negative.is_long = self._model.new_cache(), 0, True
            new = negative.tokens[negative.evaluated :]
            self.negative_logits = self._model.forward(new, negative.cache, negative.encoder_output)
            negative.evaluated = len(negative.tokens)
        return self.negative_logits
