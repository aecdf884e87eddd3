"""Token ids as every engine handles them: range checks, logit biases, common prefixes."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

from modules.core.errors import OptionError
from modules.core.events import Json


def check_token_id(option: str, token: int, vocabulary_size: int) -> None:
    """Raise OptionError if `token`, a value of `option`, is outside the vocabulary."""
    if not 0 <= token < vocabulary_size:
        last = vocabulary_size - 1
        raise OptionError(option, token, {"en": f"token ids from 0 to {last}", "zh": f" 0 到 {last} 之间的词符编号"})


def logit_biases(params: Mapping[str, Json], vocabulary_size: int, end_tokens: Iterable[int]) -> dict[int, float]:
    """Return what the generation parameters add to the logits of single tokens, by token id.

    A ban is a bias of -inf and overrides `logit_bias`. Raises OptionError for an id outside the vocabulary.
    """
    biases = {int(token): float(bias) for token, bias in params["logit_bias"]}
    bans = [int(word) for word in params["custom_token_bans"].split(",") if word.strip()]
    for option, tokens in {"logit_bias": biases, "custom_token_bans": bans}.items():
        for token in tokens:
            check_token_id(option, token, vocabulary_size)
    banned_ends = [token for token in end_tokens if token < vocabulary_size] if params["ban_eos_token"] else []
    return biases | dict.fromkeys((*bans, *banned_ends), -math.inf)


def token_pieces(tokens: Iterable[tuple[int, bytes, bool]]) -> list[list[Json]]:
    """Return what the question "pieces" answers, of ids with their bytes and whether they are special."""
    return [[token, _whole_text(piece), piece.hex(), special] for token, piece, special in tokens]


def _whole_text(piece: bytes) -> str:
    """Return the text of a token, "" if it ends or begins inside a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return ""


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens two sequences of one type (list, array) have in common at their beginning.

    It compares slices, which the interpreter does without a Python-level loop.
    """
    same, different = 0, min(len(left), len(right))
    if left[:different] == right[:different]:
        return different
    while different - same > 1:
        middle = (same + different) // 2
        if left[same:middle] == right[same:middle]:
            same = middle
        else:
            different = middle
    return same


def longest_match(cells: array[int], prefix: int, tokens: array[int]) -> tuple[int, int]:
    """Find the longest run of `tokens[prefix:]` in `cells` behind `prefix`. Return where it begins and its length."""
    best = (len(cells), 0)
    rest, begin = tokens[prefix:], prefix
    with contextlib.suppress(ValueError):  # no further one begins with the same token
        while rest:
            begin = cells.index(rest[0], begin + 1)
            length = common_prefix_length(cells[begin:], rest)
            best = (begin, length) if length > best[1] else best
    return best
