"""Grammars for llama.cpp: llguidance's, or llama.cpp's own for those in GBNF that llguidance does not take.

llguidance finds the allowed tokens in about a millisecond, whatever the grammar. llama.cpp's own sampler asks each
token of the vocabulary, and its state may grow with every character of the text.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.errors import OptionError, Unsupported
from modules.engines.grammars import GrammarRequest, Grammars, GrammarsOnDemand, Matcher, import_llguidance, refusal
from modules.engines.llamacpp.candidates import Candidates
from modules.engines.llamacpp.library import NativeLog
from modules.engines.llamacpp.vocabulary import Vocabulary
from modules.engines.time_limit import time_limit


class LlamaGrammars:
    """Compile grammars for one model."""

    def __init__(self, vocabulary: Vocabulary, log: NativeLog) -> None:
        self._vocabulary, self._log = vocabulary, log
        self._llguidance = GrammarsOnDemand(self._read)

    def prepare(self) -> None:
        """Read the vocabulary, unless that was done. It takes a seventh of a second for 50,000 tokens.

        Any thread may call.
        """
        self._llguidance.prepare()

    def compile(self, request: GrammarRequest) -> Callable[[], Matcher]:
        """Return a function that starts a matcher of the grammar.

        Raises as `Grammars.compile` does, and Unsupported for an `AnswerGrammar` without llguidance.
        """
        try:
            return self._llguidance.compile(request)
        except (Unsupported, OptionError):
            if request.is_tree:
                raise
            grammar = OwnedSampler(self._parse(request))
            return lambda: _LlamaMatcher(self._vocabulary, grammar.copy())

    def _read(self) -> Grammars:
        import_llguidance()
        import llguidance.llamacpp

        ends, handle = self._vocabulary.end_tokens, self._vocabulary.handle
        # Without the slices that it makes by default: they would hold the GIL, and thus answers, for as long again, and
        # save 20 microseconds a token of an answer in JSON.
        read = llguidance.llamacpp.lltokenizer_from_vocab
        return Grammars(read(handle, eos_token=list(ends) or None, slices=[]), ends)

    def _parse(self, request: GrammarRequest) -> Any:
        """Return llama.cpp's sampler. Raises OptionError with llama.cpp's message for an invalid grammar."""
        mark = len(self._log)
        with time_limit():
            sampler = native.llama_sampler_init_grammar(
                self._vocabulary.handle, request.text.encode("utf-8", "replace"), b"root"
            )
        if not sampler:
            raise refusal(request, self._log.errors_since(mark))
        return sampler


class OwnedSampler:
    """A llama.cpp sampler that is freed when this object is garbage collected."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        weakref.finalize(self, native.llama_sampler_free, sampler)

    def copy(self) -> OwnedSampler:
        return OwnedSampler(native.llama_sampler_clone(self.sampler))


class _LlamaMatcher:
    """A Matcher by llama.cpp's grammar sampler, which goes through the whole vocabulary: 50 ms per token."""

    def __init__(self, vocabulary: Vocabulary, grammar: OwnedSampler) -> None:
        self._vocabulary, self._grammar = vocabulary, grammar
        self._single = Candidates(1)

    def allowed(self) -> NDArray[np.bool_]:
        candidates = Candidates(self._vocabulary.size)
        candidates.fill(np.zeros(self._vocabulary.size, np.float32))
        candidates.apply(self._grammar.sampler)
        allowed: NDArray[np.bool_] = np.isfinite(candidates.logits)
        return allowed

    def accept(self, token: int) -> bool:
        # Asked first, because llama.cpp ends the process over a token that the grammar does not accept.
        if self._vocabulary.is_end_token(token) or not self._allows(token):
            return False
        native.llama_sampler_accept(self._grammar.sampler, token)
        return True

    def may_end(self) -> bool:
        return self._allows(self._vocabulary.eos)

    def _allows(self, token: int) -> bool:
        self._single.fill(np.zeros(1, np.float32), np.array([token], np.int32))
        self._single.apply(self._grammar.sampler)
        return bool(self._single)
