"""Show how data is tokenized: some rows token by token, and the lengths of all. Standard library alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modules.core.events import Json
from modules.engines.training.samples import Sample, joined
from modules.engines.training.tokens import (
    Limits,
    OffsetTokenizer,
    Span,
    Tokenized,
    TokenRow,
    cut,
    text_windows,
    tokenize_whole,
)

MOST_CHARACTERS = 5_000_000
"""Characters that are tokenized for a preview. Of larger data, randomly chosen rows are."""
MOST_TOKENS = 2000
"""Tokens of one row that are shown."""
BINS = 24
"""Bars of the histogram of lengths, at most."""


def preview(samples: Sequence[Sample], tokenizer: OffsetTokenizer, limits: Limits, seed: int = 0) -> Json:
    """Return what a page shows of the data; `seed` chooses the random row.

    `rows`, `dropped`, `truncated` and `untrained` are counts among the `samples` that were tokenized, out of `of`.
    `examples` are rows as [text, trained, name of a special token or ""] for each token.
    """
    chosen = within(samples, MOST_CHARACTERS)
    data, lengths, longest = Tokenized(), list[int](), (0, 0)
    for index, sample in enumerate(chosen):
        whole, spans = tokenize_whole(sample, tokenizer)
        if sample.raw:
            lengths += [end - start for start, end in text_windows(spans, sample.text, limits)]
        else:
            lengths.append(len(whole.tokens))
        longest = max(longest, (len(whole.tokens), -index))
        data.add(sample, whole, spans, limits)
    generator = random.Random(seed)
    kinds = [("first", 0), ("longest", -longest[1]), ("random", generator.randrange(len(chosen)))] if chosen else []
    return {
        "samples": len(chosen),
        "of": len(samples),
        "rows": len(data.rows),
        "dropped": len(data.dropped),
        "truncated": len(data.truncated),
        "untrained": len(data.untrained),
        "tokens": sum(len(row.tokens) for row in data.rows),
        "trained_tokens": sum(sum(row.trained[1:]) for row in data.rows),
        "longest": max(lengths, default=0),
        "cutoff_len": limits.cutoff_len,
        "histogram": histogram(lengths),
        "beginning": [tokenizer.name(token) for token in tokenizer.prefix],
        "eos": tokenizer.name(tokenizer.eos) if tokenizer.eos is not None else "",
        "examples": [example(kind, chosen[index], tokenizer, limits, generator) for kind, index in kinds],
    }


def within(samples: Sequence[Sample], characters: int) -> list[Sample]:
    """Return the samples, or if they have too many `characters`, the first, the longest and others chosen at random.

    They stay in their order. A raw text that is too long is cut.
    """
    sizes = [len(sample.text) for sample in samples]
    if sum(sizes) <= characters:
        return list(samples)
    order = list(range(len(samples)))
    random.Random(0).shuffle(order)
    order = [0, max(order, key=lambda index: sizes[index]), *order]
    left = characters
    kept: dict[int, Sample] = {}
    for index in order:
        if index in kept or left <= 0:
            continue
        sample = samples[index]
        if sample.raw and sizes[index] > left:
            sample = replace(sample, segments=joined([(sample.text[:left], True)]))
        kept[index] = sample
        left -= sizes[index]
    return [kept[index] for index in sorted(kept)]


def histogram(lengths: Sequence[int]) -> Json:
    """Return the number of `lengths` in ranges of equal width: the width, and the counts from 0 upwards."""
    widths = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    longest = max(lengths, default=0)
    width = next(width for width in widths if width * BINS > longest)
    counts = [0] * (longest // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return {"width": width, "counts": counts}


def example(
    kind: str, sample: Sample, tokenizer: OffsetTokenizer, limits: Limits, generator: random.Random
) -> dict[str, Json]:
    """Return one row token by token; of a raw text its first window, or a random one.

    `tokens` is the number of all, `cut` of those beyond the cutoff length; they are shown as well, up to MOST_TOKENS.
    """
    whole, spans = tokenize_whole(sample, tokenizer)
    start, end = 0, len(whole.tokens)
    if sample.raw and whole.tokens:
        windows = list(text_windows(spans, sample.text, limits))
        number = generator.randrange(len(windows)) if kind == "random" else 0
        done = windows[number - 1][1] if number else 0
        start, end = windows[number]
        whole.trained[start:done] = [False] * (done - start)
    shown = min(end, start + MOST_TOKENS)
    return {
        "kind": kind,
        "row": sample.row,
        "tokens": end - start,
        "cut": max(end - start - limits.cutoff_len, 0),
        "hidden": end - shown,
        "pieces": list(pieces(cut(whole, start, shown), spans[start:shown], sample.text, tokenizer)),
    }


def pieces(row: TokenRow, spans: Sequence[Span], text: str, tokenizer: OffsetTokenizer) -> Iterator[list[Json]]:
    """Yield for each token the text that it adds, whether it is trained, and its name if it is special.

    A token whose character has begun with an earlier one adds no text. A space that a tokenizer counts to no token
    belongs to the next one.
    """
    done = spans[0][0] if spans else 0
    for token, trained, (_, end) in zip(row.tokens, row.trained, spans, strict=True):
        yield [text[done:end], trained, tokenizer.name(token) if tokenizer.is_special(token) else ""]
        done = max(done, end)
