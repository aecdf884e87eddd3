"""Scores of targets by logits of PyTorch, computed where these are."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.engines.target_scores import TargetScores

BLOCK_BYTES = 16 << 20
"""Logits whose exponentials are in memory at once."""


def add_logits(scores: TargetScores, logits: Tensor) -> None:
    """Score the next targets by `logits`, float32 [targets, vocabulary and padding] on any device."""
    if scores.needs_rows:
        scores.add_logits(logits.cpu().numpy())
        return
    targets = torch.tensor(scores.next_targets(len(logits)), device=logits.device)
    values = logits.gather(1, targets[:, None])[:, 0]
    blocks = torch.split(logits, max(BLOCK_BYTES // logits[0].nbytes, 1))
    totals = torch.cat([rows.logsumexp(dim=1) for rows in blocks])
    scores.add_logprobs((values.double() - totals.double()).cpu().numpy())
