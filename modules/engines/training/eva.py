"""Initialize an adapter by the directions in which the activations of its data differ most (EVA).

PEFT's own function reads the data until these directions settle, which they never do for little data, and moves rank
from some layers to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.incremental_pca import IncrementalPCA

from modules.core.training_errors import NoEvaStart
from modules.engines.training.base_model import ADAPTER, evaluating
from modules.engines.training.batches import padded_batch
from modules.engines.training.tokens import TokenRow

MOST_BATCHES = 16
"""Batches that are read: more hardly change the directions."""


def initialize(model: Any, rows: Sequence[TokenRow], size: int) -> None:
    """Set A of PEFT's `model` by its activations for the first rows, `size` or more of them at a time; B stays 0.

    Raises NoEvaStart if there are fewer tokens than the rank, or a layer has fewer inputs.
    """
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    rank = max(layer.r[ADAPTER] for layer in layers)
    groups = group_rows(rows, size, rank)
    if not groups or rank > (width := min(layer.in_features for layer in layers)):
        raise NoEvaStart(rank, width if groups else sum(len(row.tokens) for row in rows))
    watched = _Watched(rank)
    handles = [layer.register_forward_pre_hook(watched.see) for layer in layers]
    try:
        with evaluating(model):
            for group in groups:
                batch = padded_batch(group)
                ids, mask = batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
                watched.mask = mask.bool()
                model(input_ids=ids, attention_mask=mask, use_cache=False)
            for layer, directions in watched.directions.items():
                layer.lora_A[ADAPTER].weight.copy_(directions.components_)
    finally:
        for handle in handles:
            handle.remove()


def group_rows(rows: Sequence[TokenRow], size: int, tokens: int) -> list[list[TokenRow]]:
    """Return the first rows in at most MOST_BATCHES groups of at least `size` rows and `tokens` tokens.

    Rows that are left are too few for a group; all rows may be.
    """
    groups: list[list[TokenRow]] = []
    group: list[TokenRow] = []
    for number, row in enumerate(rows, 1):
        group.append(row)
        full = len(group) >= size or number == len(rows)
        if full and sum(len(row.tokens) for row in group) >= tokens:
            groups.append(group)
            group = []
        if len(groups) == MOST_BATCHES:
            break
    return groups


class _Watched:
    """The directions of the inputs of layers. `mask` is which tokens of the batch are no padding."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self.mask: Any = None
        self.directions: dict[Any, Any] = {}
        self._last: tuple[Any, Any] = (None, None)  # the input of the layer before, and its directions

    def see(self, layer: Any, arguments: tuple[Any, ...]) -> None:
        """Take in the input of a layer; neighbors such as q, k and v have the same one.

        An expert that gets too few tokens keeps the weights that it has.
        """
        inputs, (before, shared) = arguments[0], self._last
        if inputs is before:
            self.directions[layer] = shared
            return
        whole = inputs.shape[:2] == self.mask.shape  # and not what is routed to an expert
        states = (inputs[self.mask.to(inputs.device)] if whole else inputs.flatten(0, -2)).float()
        if len(states) < self._rank or not bool(torch.isfinite(states).all()):  # the first update says the latter
            return
        found = self.directions.get(layer) or IncrementalPCA(self._rank, lowrank=True, lowrank_seed=42)
        found.partial_fit(states)
        self.directions[layer] = found
        self._last = inputs, found
