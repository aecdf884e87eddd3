"""Speculative decoding with a draft model: a small model of the same vocabulary guesses what the large one will say.

It has a sequence for each slot of the large model, which holds the beginning of the slot's text. It is evaluated by the
same thread as the large model, between two of its batches.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np

from modules.core.errors import WebUIError
from modules.core.events import Json, Note
from modules.engines.llamacpp.acceptance import AcceptanceRates
from modules.engines.llamacpp.arguments import DRAFT
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.batch_costs import KNOWN_SAMPLES, BatchCosts
from modules.engines.llamacpp.bindings import DECODED, Model
from modules.engines.llamacpp.notes import unusable_draft_note
from modules.engines.llamacpp.vocabulary import Vocabulary
from modules.engines.token_ids import common_prefix_length

CATCH_UP_TOKENS = 256
"""Tokens of a text that it evaluates before one batch of the large model."""
FEW_TOKENS = 32
"""Tokens that it may have to evaluate of a text before a draft; if they are more, it catches up first."""
CONFIDENCES = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Probabilities that the draft model gives to its tokens, from which on they are trusted more."""
ASSUMED_RATES = (0.2, 0.4, 0.55, 0.7, 0.8, 0.9)
ASSUMED_ACCEPTANCE = 0.7
_ACCEPTANCE_CHANGE = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 512
"""Tokens of an answer after which a draft is tried again, although drafts did not pay before."""
_MAX_SIZE_DIFFERENCE, _FIRST_COMPARED = 128, 5  # as in llama.cpp's common/speculative.cpp


class ModelDrafter:
    """The drafts for one answer. `tokens` are the prompt's, and grow; `acceptance` is how often a draft is right."""

    def __init__(self, model: DraftModel, tokens: array[int]) -> None:
        self.tokens = tokens
        self.sequence = 0
        self.draft = array("i")
        self.acceptance = model.acceptance
        self.rates = model.rates.copy()
        self._model = model
        self._confidences: list[float] = []
        self._drafted_at = 0
        self._pause = _FIRST_PAUSE
        self._tried_at = 0

    def learn(self) -> None:
        """Learn from the last draft what the tokens since then show."""
        actual = self.tokens[self._drafted_at :]
        for drafted, token, confidence in zip(self.draft, actual, self._confidences, strict=False):
            is_right = drafted == token
            for rates in (self.rates, self._model.rates):
                rates.record(confidence, is_right)
            self.acceptance += _ACCEPTANCE_CHANGE * (is_right - self.acceptance)
            self._model.acceptance += _ACCEPTANCE_CHANGE / 4 * (is_right - self._model.acceptance)
            if not is_right:
                break
        self.begin()

    def begin(self) -> None:
        self.draft, self._confidences, self._drafted_at = array("i"), [], len(self.tokens)

    def add(self, token: int, confidence: float) -> float:
        """Append a token to the draft. Return how likely it is right if those before it are."""
        self.draft.append(token)
        self._confidences.append(confidence)
        return self.rates.rate(confidence)

    def may_try(self) -> bool:
        """Tell whether to try a draft although none is expected to pay. The pauses between two tries grow."""
        if len(self.tokens) - self._tried_at < self._pause:
            return False
        self._tried_at = len(self.tokens)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


class DraftModel:
    """A loaded draft model for `slots` slots, timed by `clock`. Answers have shown `acceptance` and `rates`."""

    def __init__(self, model: Model, slots: int, max_tokens: int, clock: Callable[[], float]) -> None:
        self.max_tokens = max_tokens
        self._clock = clock
        self.n_ctx, self.context = model.n_ctx, model.context
        self.costs = BatchCosts()
        self.acceptance = ASSUMED_ACCEPTANCE
        self.rates = AcceptanceRates(CONFIDENCES, ASSUMED_RATES)
        self._model = model
        self._batch = Batch(model.n_batch)
        self._held = [array("i") for _ in range(slots)]
        self.few_tokens = max(min(FEW_TOKENS, model.n_batch // slots), 1)
        self._measure()

    def _measure(self) -> None:
        """Evaluate single tokens, so that it is known what one costs before the first draft."""
        token = array("i", [self._model.vocabulary.filler_token])
        for position in range(KNOWN_SAMPLES + 1):
            self._batch.clear()
            self._batch.add(token, position, 0, wants_logits=True)
            began = self._clock()
            if self._model.decode(self._batch) == DECODED and position:
                self.costs.record(1, self._clock() - began)
        self._model.clear_cache()

    def missing(self, drafter: ModelDrafter) -> int:
        """Drop what its sequence holds of other texts. Return how many tokens are to be evaluated before a draft."""
        held, tokens = self._held[drafter.sequence], drafter.tokens
        same = min(common_prefix_length(held, tokens), len(tokens) - 1)
        if same < len(held):
            self._model.truncate(drafter.sequence, same)
            del held[same:]
        return len(tokens) - same

    def catch_up(self, drafter: ModelDrafter) -> None:
        """Evaluate the next CATCH_UP_TOKENS of a text, without its last token."""
        held = self._held[drafter.sequence]
        end = min(len(held) + min(CATCH_UP_TOKENS, self._batch.capacity), len(drafter.tokens) - 1)
        self._batch.clear()
        self._batch.add(drafter.tokens[len(held) : end], len(held), drafter.sequence, wants_logits=False)
        if self._evaluate():
            held.extend(drafter.tokens[len(held) : end])

    def draft(self, lengths: Mapping[ModelDrafter, int], least_chance: float) -> None:
        """Draft up to so many tokens for each answer, together, as long as those before them are likely enough."""
        chances = dict.fromkeys(lengths, 1.0)
        active = list(lengths)
        while active:
            rows = self._evaluate_last(active)
            for drafter, row in rows.items():
                logits = self._model.logits(row)
                token = int(logits.argmax())
                confidence = 1 / float(np.exp(logits - logits[token]).sum())
                chances[drafter] *= drafter.add(token, confidence)
            active = [
                drafter
                for drafter in rows
                if len(drafter.draft) < lengths[drafter] and chances[drafter] >= least_chance
            ]

    def _evaluate_last(self, drafters: Sequence[ModelDrafter]) -> dict[ModelDrafter, int]:
        """Evaluate what is missing of texts and drafts. Return the rows of the logits after them; none if it failed."""
        self._batch.clear()
        rows = {}
        for drafter in drafters:
            held = self._held[drafter.sequence]
            new = (drafter.tokens + drafter.draft)[len(held) :] if not drafter.draft else drafter.draft[-1:]
            rows[drafter] = self._batch.add(new, len(held), drafter.sequence, wants_logits=True)
            held.extend(new)
        return rows if self._evaluate() else {}

    def _evaluate(self) -> bool:
        """Evaluate the batch. If that fails, as without room, start again with empty sequences."""
        began = self._clock()
        if self._model.decode(self._batch, interruptible=False) == DECODED:
            if self._batch.outputs == len(self._batch):
                self.costs.record(len(self._batch), self._clock() - began)
            return True
        self._model.clear_cache()
        for held in self._held:
            del held[:]
        return False


def open_draft_model(
    model: Model, calls: Mapping[str, Json], clock: Callable[[], float]
) -> tuple[DraftModel | None, tuple[Note, ...]]:
    """Return the draft model that `calls` load; None, and a note that says why, if it cannot be used."""
    if DRAFT not in calls:
        return None, ()
    draft_calls = calls[DRAFT]
    context = draft_calls["llama_init_from_model"]
    path = Path(draft_calls["llama_model_load_from_file"]["path_model"])
    if not path.is_file():
        return None, (unusable_draft_note(model.path.name, path.name, "there is no such file", "没有此文件"),)
    try:
        cells = model.n_ctx * (1 if model.is_unified else context["n_seq_max"])
        with_context = {**draft_calls, "llama_init_from_model": {**context, "n_ctx": context["n_ctx"] or cells}}
        draft = Model(path, with_context, lambda fraction: None, model.log)
    except WebUIError as error:
        return None, (unusable_draft_note(model.path.name, path.name, error.say("en"), error.say("zh")),)
    difference = vocabulary_difference(model.vocabulary, draft.vocabulary)
    if difference or not (model.can_truncate and draft.can_truncate):
        reasons = difference or ("its memory cannot be cut back", "其状态无法回退")
        native.llama_free(draft.context)
        native.llama_model_free(draft.handle)
        return None, (unusable_draft_note(model.path.name, path.name, *reasons),)
    return DraftModel(draft, context["n_seq_max"], draft_calls["common_params_speculative"]["n_max"], clock), ()


def vocabulary_difference(large: Vocabulary, small: Vocabulary) -> tuple[str, str] | None:
    """Return, in English and Chinese, in what two vocabularies differ; None if tokens of one suit the other.

    These are llama.cpp's conditions. Source: common/speculative.cpp.
    """
    if native.llama_vocab_type(large.handle) != native.llama_vocab_type(small.handle):
        return "its vocabulary has a different type", "其词表类型不同"
    for adds, token in (
        (native.llama_vocab_get_add_bos, native.llama_vocab_bos),
        (native.llama_vocab_get_add_eos, native.llama_vocab_eos),
    ):
        same_flag = adds(large.handle) == adds(small.handle)
        if not same_flag or (adds(large.handle) and token(large.handle) != token(small.handle)):
            return "its special tokens differ", "其特殊词符不同"
    if abs(large.size - small.size) > _MAX_SIZE_DIFFERENCE:
        sizes = f"{small.size:,} / {large.size:,}"
        return f"its vocabulary has a different size ({sizes} tokens)", f"其词表大小不同（{sizes}）"
    for token_id in range(_FIRST_COMPARED, min(large.size, small.size)):
        if native.llama_vocab_get_text(large.handle, token_id) != native.llama_vocab_get_text(small.handle, token_id):
            return f"its token {token_id} has a different text", f"其第 {token_id} 个词符不同"
    return None
