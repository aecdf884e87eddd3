"""Facts about PyTorch's CPU kernel for 4-bit weights, `torch.ops.aten._weight_int4pack_mm_for_cpu`.

Its fast version is for bfloat16 alone. Its weight is (level - 8) * scale + offset.
"""

from __future__ import annotations

GROUP_SIZES = (256, 128, 64, 32)
"""How many inputs may share a scale, largest first; larger groups are split into several of these."""
OUTPUT_MULTIPLE = 16
"""The number of outputs has to be a multiple of this."""
MIDDLE_LEVEL = 8
