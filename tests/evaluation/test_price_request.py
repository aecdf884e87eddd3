"""What may be priced, and how it is written."""

from __future__ import annotations

import pytest
from pytest import Subtests

from modules.core.errors import OptionError, UnknownOption
from modules.evaluation.price_errors import NoPrice
from modules.evaluation.price_request import PriceRequest


def test_the_command_line_names_an_option_and_two_values(subtests: Subtests) -> None:
    cases = {
        "cache_8bit=false,true": ("cache_8bit", "false", "true"),
        "cache-8bit": ("cache_8bit", "false", "true"),
        "n_batch=64, 512": ("n_batch", "64", "512"),
        "tensor_split=1,2,3,4": ("tensor_split", "1,2", "3,4"),
        "model=a=1.gguf,b.gguf": ("model", "a=1.gguf", "b.gguf"),
    }
    for text, expected in cases.items():
        with subtests.test(text=text):
            assert PriceRequest.split(text) == expected


def test_anything_but_two_values_is_refused(subtests: Subtests) -> None:
    for text in ("n_batch", "n_batch=1", "n_batch=1,2,3", "=1", ""):
        with subtests.test(text=text), pytest.raises(NoPrice):
            PriceRequest.split(text)


def test_values_are_validated_and_written_in_one_way() -> None:
    request = PriceRequest.parse("cache-8bit", "No", True, "m")
    assert (request.key, request.a, request.b, request.pairs) == ("cache_8bit", "false", "true", 5)
    for faulty, error in (
        (("n_batsh", "1", "2", "m"), UnknownOption),
        (("n_batch", "many", "2", "m"), OptionError),
        (("n_batch", "1", "2", ""), OptionError),
        (("model", "a.gguf", ""), NoPrice),
        (("model", "a.gguf", 3), NoPrice),
    ):
        with pytest.raises(error):
            PriceRequest.parse(*faulty)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        PriceRequest.parse("n_batch", 1, 2, "m", pairs=1)


def test_both_sides_differ_in_what_is_priced_and_nothing_else() -> None:
    option = PriceRequest.parse("n_batch", 64, 128, "m", "llama.cpp", {"n_ctx": 512}).variants()
    assert [(one.model, one.loader, one.options) for one in option] == [
        ("m", "llama.cpp", {"n_ctx": 512, "n_batch": "64"}),
        ("m", "llama.cpp", {"n_ctx": 512, "n_batch": "128"}),
    ]
    models = PriceRequest.parse("model", "a", "b", loader="llama.cpp").variants()
    assert [(one.value, one.model, one.loader) for one in models] == [("a", "a", "llama.cpp"), ("b", "b", "llama.cpp")]
    loaders = PriceRequest.parse("loader", "llama.cpp", "llamacpp_HF", "m").variants()
    assert [(one.model, one.loader) for one in loaders] == [("m", "llama.cpp"), ("m", "llamacpp_HF")]
