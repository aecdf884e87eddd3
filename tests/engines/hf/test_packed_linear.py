"""Packed linear layers compute what the layers did that they replace."""

from __future__ import annotations

import copy

import pytest
import torch

from modules.engines.hf.packed_linear import OnednnLinear, PackedLinear, pack_linear_layers

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"),
]


def packed(layer: torch.nn.Linear) -> torch.nn.Linear:
    """Return a packed copy of `layer`."""
    model = torch.nn.Sequential(copy.deepcopy(layer))
    pack_linear_layers(model)
    return model[0]  # type: ignore[return-value]


def test_packed_layers_compute_what_the_layers_did(subtests: pytest.Subtests) -> None:
    for bias in (False, True):
        for shape in ((1, 96), (7, 96), (2, 5, 96), (600, 96)):
            with subtests.test(bias=bias, shape=shape), torch.inference_mode():
                layer, rows = torch.nn.Linear(96, 160, bias=bias), torch.randn(shape)
                assert isinstance(packed(layer), PackedLinear)
                torch.testing.assert_close(packed(layer)(rows), layer(rows), rtol=1e-5, atol=1e-5)


def test_a_packed_layer_still_tells_its_weights_and_sizes() -> None:
    layer = torch.nn.Linear(96, 160)
    copied = packed(layer)
    assert torch.equal(copied.weight, layer.weight)
    assert (copied.in_features, copied.out_features) == (96, 160)
    assert "weight" not in dict(copied.named_parameters()), "they would take memory twice"


def test_layers_that_cannot_be_packed_stay_as_they_are() -> None:
    class Quantized(torch.nn.Linear):
        """Any layer whose weights mean something else."""

    offloaded = torch.nn.Linear(8, 8)
    offloaded._hf_hook = object()  # type: ignore[assignment]
    model = torch.nn.Sequential(Quantized(8, 8), torch.nn.Linear(8, 8).half(), offloaded, torch.nn.Embedding(8, 8))
    before = [type(layer) for layer in model]
    pack_linear_layers(model)
    assert [type(layer) for layer in model] == before


def test_an_output_layer_keeps_the_weights_that_it_shares_with_the_embeddings() -> None:
    embeddings, head, rows = torch.nn.Embedding(160, 96), torch.nn.Linear(96, 160, bias=False), torch.randn(3, 96)
    head.weight = embeddings.weight
    expected = head(rows)
    pack_linear_layers(torch.nn.Sequential(embeddings, head))
    assert head.weight is embeddings.weight and type(head) in (torch.nn.Linear, OnednnLinear)
    with torch.inference_mode():
        torch.testing.assert_close(head(rows), expected, rtol=1e-5, atol=1e-5)
