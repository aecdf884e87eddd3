"""Token ids: common prefixes, biases and bans."""

from __future__ import annotations

import math
import random
from array import array
from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.engines.token_ids import common_prefix_length, logit_biases

PARAMS: dict[str, Any] = {"logit_bias": [], "custom_token_bans": "", "ban_eos_token": False}


def test_the_common_prefix_ends_at_the_first_different_token() -> None:
    assert common_prefix_length([1, 2, 3], [1, 2, 4, 3]) == 2
    assert common_prefix_length([1, 2], [1, 2, 3]) == 2
    assert common_prefix_length([], [1]) == common_prefix_length([1], [2]) == 0


def test_the_common_prefix_equals_that_of_a_simple_loop() -> None:
    rng = random.Random(0)
    for _ in range(500):
        left = [rng.randrange(2) for _ in range(rng.randrange(12))]
        right = left[: rng.randrange(12)] + [rng.randrange(2) for _ in range(rng.randrange(12))]
        length = 0
        while length < min(len(left), len(right)) and left[length] == right[length]:
            length += 1
        assert common_prefix_length(left, right) == length
        assert common_prefix_length(array("i", left), array("i", right)) == length


def test_a_ban_overrides_a_bias() -> None:
    params = PARAMS | {"logit_bias": [["3", 2.5], ["4", 1.0]], "custom_token_bans": "4, 5"}
    assert logit_biases(params, 10, [9]) == {3: 2.5, 4: -math.inf, 5: -math.inf}


def test_ban_eos_token_bans_the_end_tokens_that_have_logits() -> None:
    assert logit_biases(PARAMS | {"ban_eos_token": True}, 10, [9, 12]) == {9: -math.inf}


@pytest.mark.parametrize("params", [{"logit_bias": [["10", 1.0]]}, {"custom_token_bans": "10"}])
def test_a_token_id_outside_the_vocabulary_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="token ids from 0 to 9"):
        logit_biases(PARAMS | params, 10, [])
