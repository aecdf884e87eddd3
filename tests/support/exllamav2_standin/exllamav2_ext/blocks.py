"""The projections before and after attention, and the MLP, of quantized layers.

They follow cuda/q_attn.cu, cuda/q_mlp.cu and cuda/lora.cu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from .layers import head_norm, layer_normed, rms_normed, rope_
from .matrices import MATRICES, Handles, QMatrix

META = torch.empty((1, 1), device="meta")
NO_ROPE, NEOX = 0, 2
Lora = dict[int, tuple[Tensor, Tensor]]
Adapters = dict[int, Tensor]
"""One of the two factors of each LoRA, by the address of the package's LoRA object."""


@dataclass(frozen=True)
class Norm:
    weight: Tensor
    bias: Tensor
    rms: bool
    epsilon: float

    def __bool__(self) -> bool:
        return not self.weight.is_meta

    def apply(self, x: Tensor) -> Tensor:
        if self.rms:
            return rms_normed(x, self.weight, self.epsilon)
        return layer_normed(x, self.weight, None if self.bias.is_meta else self.bias, self.epsilon)


@dataclass
class Projection:
    """A matrix and its LoRAs."""

    matrix: QMatrix
    loras: Lora = field(default_factory=dict)

    def set_loras(self, a: Adapters, b: Adapters) -> int:
        """Replace the LoRAs. Return the largest rank."""
        self.loras = {key: (factor, b[key]) for key, factor in a.items()}
        return max((factor.shape[-1] for factor, _ in self.loras.values()), default=0)

    def apply(self, x: Tensor, loras: Sequence[int]) -> Tensor:
        return self.add_loras(x, self.matrix.times(x), loras)

    def add_loras(self, x: Tensor, output: Tensor, loras: Sequence[int]) -> Tensor:
        for key in loras:
            if key in self.loras:
                a, b = self.loras[key]
                output = output + x @ a @ b
        return output


@dataclass
class Block:
    norm: Norm
    post_norm: Norm
    has_residual: bool
    projections: dict[str, Projection]

    def normalize(self, x: Tensor) -> Tensor:
        return self.norm.apply(x).half() if self.norm else x

    def write_output(self, x: Tensor, inner: Tensor, projection: Projection, loras: Sequence[int]) -> None:
        """Project `inner` and write it to `x`, or add it if there is a residual. LoRAs are added after the norm."""
        out = projection.matrix.times(inner)
        if self.post_norm:
            out = self.post_norm.apply(out).to(x.dtype)
        state = x + out if self.has_residual or self.post_norm else out
        x.copy_(projection.add_loras(inner, state, loras))


def _projections(**handles: int | None) -> dict[str, Projection]:
    return {name: Projection(MATRICES[handle]) for name, handle in handles.items() if handle}


def _set_loras(block: Block, *adapters: Adapters) -> int:
    """Set the LoRAs and return the largest rank. `adapters` are pairs, in the extension's order of projections."""
    pairs = zip(adapters[::2], adapters[1::2], strict=True)
    names = list(block.projections) if len(block.projections) * 2 == len(adapters) else ["", "up", "down"]
    ranks = [block.projections[name].set_loras(a, b) for name, (a, b) in zip(names, pairs, strict=True) if name]
    return max(ranks)


# -- attention ---------------------------------------------------------------------------------------------------------


@dataclass
class Attention(Block):
    heads: int
    kv_heads: int
    head_dim: int
    rope_style: int
    q_norm: Tensor
    k_norm: Tensor
    head_norm_rms: bool


ATTENTIONS: Handles[Attention] = Handles()


def make_q_attn(
    layernorm: Tensor,
    layernorm_bias: Tensor,
    layernorm_is_rms: bool,
    headnorm_is_rms: bool,
    norm_epsilon: float,
    q_q_proj: int,
    q_k_proj: int,
    q_v_proj: int,
    q_o_proj: int,
    temp_state: Tensor,
    temp_dq: Tensor,
    max_rows: int,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    max_seq_len: int,
    has_residual: bool,
    rope_style: int,
    sincos_size: int,
    q_norm: Tensor,
    k_norm: Tensor,
    post_layernorm: Tensor,
    post_layernorm_bias: Tensor,
    residual_fp32: bool,
    use_graphs: bool,
) -> int:
    return ATTENTIONS.add(
        Attention(
            Norm(layernorm, layernorm_bias, layernorm_is_rms, norm_epsilon),
            Norm(post_layernorm, post_layernorm_bias, layernorm_is_rms, norm_epsilon),
            has_residual,
            _projections(q=q_q_proj, k=q_k_proj, v=q_v_proj, o=q_o_proj),
            num_heads,
            num_kv_heads,
            head_dim,
            rope_style,
            q_norm,
            k_norm,
            headnorm_is_rms,
        )
    )


def q_attn_forward_1(
    q_attn: int,
    x: Tensor,
    batch_size: int,
    q_len: int,
    past_len: int,
    past_lens: Tensor,
    q_temp: Tensor,
    k_temp: Tensor,
    v_temp: Tensor,
    sin: Tensor,
    cos: Tensor,
    loras: list[int],
    loras_temp: Tensor,
) -> None:
    """Write queries, keys and values, with rotary positions, to `q_temp`, `k_temp` and `v_temp`."""
    attention = ATTENTIONS[q_attn]
    state = attention.normalize(x.view(-1, x.shape[-1]))
    for name, target in (("q", q_temp), ("k", k_temp), ("v", v_temp)):
        target.copy_(attention.projections[name].apply(state, loras).view(target.shape))
    for target, heads, norm in (
        (q_temp, attention.heads, attention.q_norm),
        (k_temp, attention.kv_heads, attention.k_norm),
    ):
        split = target.view(batch_size, q_len, heads, attention.head_dim)
        if not norm.is_meta:
            head_norm(split, norm, META, split, attention.norm.epsilon, attention.head_norm_rms)
        if attention.rope_style != NO_ROPE:
            neox = attention.rope_style == NEOX
            rope_(split, sin, cos, past_len, heads, attention.head_dim, past_lens, neox)


def q_attn_forward_2(
    q_attn: int,
    x: Tensor,
    attn_output: Tensor,
    batch_size: int,
    q_len: int,
    loras: list[int],
    loras_temp: Tensor,
) -> None:
    attention = ATTENTIONS[q_attn]
    inner = attn_output.view(-1, attention.projections["o"].matrix.weight.shape[0])
    attention.write_output(x.view(-1, x.shape[-1]), inner, attention.projections["o"], loras)


def q_attn_set_loras(q_attn: int, *adapters: Adapters) -> int:
    return _set_loras(ATTENTIONS[q_attn], *adapters)


def free_q_attn(handle: int) -> None:
    ATTENTIONS.free(handle)


# -- MLP ---------------------------------------------------------------------------------------------------------------


@dataclass
class Mlp(Block):
    act_gelu: bool
    max_rows: int

    def activate(self, x: Tensor) -> Tensor:
        return gelu(x.float(), approximate="tanh").half() if self.act_gelu else silu(x.float()).half()


MLPS: Handles[Mlp] = Handles()


def make_q_mlp(
    layernorm: Tensor,
    layernorm_bias: Tensor,
    layernorm_is_rms: bool,
    norm_epsilon: float,
    q_gate: int | None,
    q_up: int,
    q_down: int,
    temp_state: Tensor,
    temp_a: Tensor,
    temp_b: Tensor,
    temp_dq: Tensor,
    max_rows: int,
    act_gelu: bool,
    has_residual: bool,
    post_layernorm: Tensor,
    post_layernorm_bias: Tensor,
    residual_fp32: bool,
    use_graphs: bool,
) -> int:
    return MLPS.add(
        Mlp(
            Norm(layernorm, layernorm_bias, layernorm_is_rms, norm_epsilon),
            Norm(post_layernorm, post_layernorm_bias, layernorm_is_rms, norm_epsilon),
            has_residual,
            _projections(gate=q_gate, up=q_up, down=q_down),
            act_gelu,
            max_rows,
        )
    )


def q_mlp_forward_(q_mlp: int, x: Tensor, loras: list[int], loras_temp: Tensor) -> None:
    mlp = MLPS[q_mlp]
    rows = x.view(-1, x.shape[-1])
    assert len(rows) <= mlp.max_rows, "Too many rows in x"
    state = mlp.normalize(rows)
    inner = mlp.projections["up"].apply(state, loras)
    if "gate" in mlp.projections:
        inner = mlp.activate(mlp.projections["gate"].apply(state, loras)) * inner
    else:
        inner = mlp.activate(inner)
    mlp.write_output(rows, inner, mlp.projections["down"], loras)


def q_mlp_set_loras(q_mlp: int, *adapters: Any) -> int:
    return _set_loras(MLPS[q_mlp], *adapters)


def free_q_mlp(handle: int) -> None:
    MLPS.free(handle)
