"""Turn samples into token ids and say which of them are trained. Standard library alone: the tokenizer is passed in.

A text is tokenized as a whole, as it is when a model answers, and its trained parts are found by the tokens' offsets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from modules.engines.training.samples import Sample, Segments

IGNORED = -100
"""The label of a token that is not trained, as in torch's cross entropy."""

Span = tuple[int, int]
"""The first character of a token in its text, and the one after its last."""


class OffsetTokenizer:
    """A tokenizer of transformers, as texts for training need it.

    `prefix` are the special tokens with which the model expects a text to begin, such as BOS.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int | None = tokenizer.eos_token_id
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self.prefix = self._find_prefix()
        self._specials = set(tokenizer.all_special_ids) | _special_added(tokenizer)

    def encode(self, segments: Segments) -> tuple[list[int], list[Span]]:
        """Return the tokens of a text and their spans, without special tokens that the text does not contain.

        A tokenizer that is written in Python knows no offsets. It gets the segments one by one; where its tokens do not
        give the text letter by letter, the span of each is that of its segment.
        """
        if self._fast is not None:
            encoding = self._fast.encode("".join(text for text, _ in segments), add_special_tokens=False)
            return list(encoding.ids), list(encoding.offsets)
        tokens: list[int] = []
        spans: list[Span] = []
        start = 0
        for text, _ in segments:
            ids = self._ids(text, special=False)
            tokens += ids
            spans += self._spans(ids, text, start)
            start += len(text)
        return tokens, spans

    def _spans(self, ids: list[int], text: str, start: int) -> list[Span]:
        texts = [self.tokenizer.decode([token]) for token in ids]
        if "".join(texts) != text:
            return [(start, start + len(text))] * len(ids)
        ends = list(accumulate(map(len, texts), initial=start))
        return list(pairwise(ends))

    def is_special(self, token: int) -> bool:
        return token in self._specials

    def name(self, token: int) -> str:
        """Return the text by which a special token is written."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def _find_prefix(self) -> list[int]:
        body, whole = (self._ids("a", special) for special in (False, True))
        starts = (start for start in range(len(whole)) if whole[start : start + len(body)] == body)
        return whole[: next(starts, 0)]

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


def _special_added(tokenizer: Any) -> set[int]:
    """Return the added tokens that are special; not all of them are among `all_special_ids`."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token for token, about in added.items() if getattr(about, "special", False)}


@dataclass(frozen=True)
class TokenRow:
    """One row as the model gets it. `trained` has a value for each of `tokens`; `row` is the sample's number."""

    row: int
    tokens: list[int]
    trained: list[bool]

    @property
    def labels(self) -> list[int]:
        return [token if trained else IGNORED for token, trained in zip(self.tokens, self.trained, strict=True)]


@dataclass(frozen=True)
class Limits:
    """Limits of rows, in tokens, and the rules by which texts are cut. The fields are parameters of a run."""

    cutoff_len: int
    truncate: bool = False
    overlap_len: int = 0
    newline_favor_len: int = 0

    @staticmethod
    def of(parameters: Any) -> Limits:
        """Return the limits that the parameters of a run state."""
        truncate = parameters["excess_length"] == "truncate"
        lengths = (int(parameters[key]) for key in ("cutoff_len", "overlap_len", "newline_favor_len"))
        cutoff, overlap, newline = lengths
        return Limits(cutoff, truncate, overlap, newline)


@dataclass
class Tokenized:
    """The rows of a dataset, and the numbers of samples that are not used as they are.

    `untrained` are samples of which no token would be trained; they and those `dropped` for their length are left out.
    """

    rows: list[TokenRow] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)

    def add(self, sample: Sample, whole: TokenRow, spans: Sequence[Span], limits: Limits) -> None:
        """Add the rows of a sample, given its tokens."""
        if sample.raw:
            self.rows += raw_rows(whole, spans, sample.text, limits)
            return
        if len(whole.tokens) > limits.cutoff_len:
            if not limits.truncate:
                self.dropped.append(sample.row)
                return
            self.truncated.append(sample.row)
            whole = cut(whole, 0, limits.cutoff_len)
        if any(whole.trained[1:]):  # the first token is predicted from nothing
            self.rows.append(whole)
        else:
            self.untrained.append(sample.row)


def tokenize(samples: Iterable[Sample], tokenizer: OffsetTokenizer, limits: Limits) -> Tokenized:
    """Return the rows of all samples."""
    result = Tokenized()
    for sample in samples:
        result.add(sample, *tokenize_whole(sample, tokenizer), limits)
    return result


def tokenize_whole(sample: Sample, tokenizer: OffsetTokenizer) -> tuple[TokenRow, list[Span]]:
    """Return the tokens of a sample, however many, and their spans in its text.

    The tokens that begin the text come before it unless they are there already, and the EOS token likewise after it.
    """
    tokens, spans = tokenizer.encode(sample.segments)
    trained = trained_tokens(spans, sample.segments)
    prefix = tokenizer.prefix
    if prefix and tokens[: len(prefix)] != prefix:
        tokens, spans = [*prefix, *tokens], [(0, 0)] * len(prefix) + spans
        trained = [False] * len(prefix) + trained
    eos = tokenizer.eos
    if sample.eos and eos is not None and tokens[-1:] != [eos]:
        end = len(sample.text)
        tokens, spans = [*tokens, eos], [*spans, (end, end)]
        trained = [*trained, bool(sample.segments) and sample.segments[-1][1]]
    return TokenRow(sample.row, tokens, trained), spans


def trained_tokens(spans: Sequence[Span], segments: Segments) -> list[bool]:
    """Return for each token whether it has a character of a trained segment; if it has none, whether it is within one.

    A token across the beginning of an answer is trained, since the answer would lose its first word otherwise.
    """
    ends = list(accumulate(len(text) for text, _ in segments))
    trained = []
    for start, end in spans:
        first, last = bisect_right(ends, start), bisect_right(ends, max(start, end - 1))
        trained.append(any(segments[index][1] for index in range(first, min(last + 1, len(segments)))))
    return trained


def cut(row: TokenRow, start: int, end: int) -> TokenRow:
    return TokenRow(row.row, row.tokens[start:end], row.trained[start:end])


def raw_rows(whole: TokenRow, spans: Sequence[Span], text: str, limits: Limits) -> Iterator[TokenRow]:
    """Yield the windows of a text. The tokens that a window repeats of the one before it are context, not trained."""
    done = 0
    for start, end in text_windows(spans, text, limits):
        row = cut(whole, start, end)
        row.trained[: done - start] = [False] * (done - start)
        done = end
        if any(row.trained[1:]):
            yield row


def text_windows(spans: Sequence[Span], text: str, limits: Limits) -> Iterator[Span]:
    """Yield the windows of a text, given the spans of its tokens."""
    return windows([end > start and text[end - 1] == "\n" for start, end in spans], limits)


def windows(line_ends: Sequence[bool], limits: Limits) -> Iterator[Span]:
    """Yield the first token of each window and the one after its last; `line_ends` has a value for each token.

    A window has at most `cutoff_len` tokens and repeats `overlap_len` of the one before, at least one, from which its
    first new token is predicted. It ends up to `newline_favor_len` tokens earlier where that is the end of a line.
    Each token is new in exactly one window.
    """
    overlap = max(limits.overlap_len, 1)
    length, start, done = len(line_ends), 0, 0
    while done < length:
        end = min(start + limits.cutoff_len, length)
        if end < length:
            earliest = max(done, end - limits.newline_favor_len - 1)
            end = next((last + 1 for last in range(end - 1, earliest - 1, -1) if line_ends[last]), end)
        yield start, end
        start, done = max(end - overlap, 0), end
