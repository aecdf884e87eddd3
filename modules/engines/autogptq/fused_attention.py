"""auto-gptq's fused attention for Llama, adapted to transformers 4.51: one layer computes queries, keys and values.

auto-gptq 0.7.1 was written for the attention of transformers 4.36. Since 4.48, rotary embeddings are computed outside
of it, it no longer stores its own sizes, and it returns two values instead of three. There will be no later version of
auto-gptq, and this module goes with its overlay; a test asserts that auto-gptq's own fused attention fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from auto_gptq.modeling.llama import LlamaGPTQForCausalLM
from auto_gptq.nn_modules.fused_llama_attn import FusedLlamaAttentionForQuantizedModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb


class FusedAttention(FusedLlamaAttentionForQuantizedModel):  # type: ignore[misc]
    @classmethod
    def inject_to_model(cls, model: Any, **kwargs: Any) -> None:
        """Replace the attention layers of `model`, after giving them the attributes that auto-gptq reads."""
        attentions: list[Any] = [layer for layer in model.modules() if isinstance(layer, LlamaAttention)]
        for attention in attentions:
            attention.hidden_size = attention.q_proj.infeatures
            attention.num_heads = attention.config.num_attention_heads
            attention.rotary_emb = None
        super().inject_to_model(model, **kwargs)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_value: Any = None,
        cache_position: Tensor | None = None,
        **_ignored: object,
    ) -> tuple[Tensor, None]:
        """Compute attention with the signature of transformers' LlamaAttention; states are [rows, tokens, hidden]."""
        rows, length, _ = hidden_states.shape
        projections = self.qkv_proj(hidden_states).split(self.hidden_size, dim=2)
        queries, keys, values = (
            projection.view(rows, length, self.num_heads, -1).transpose(1, 2) for projection in projections
        )
        cos, sin = position_embeddings
        queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
        if past_key_value is not None:
            cache_kwargs = {"sin": sin, "cos": cos, "cache_position": cache_position}
            keys, values = past_key_value.update(keys, values, self.layer_idx, cache_kwargs)
        if attention_mask is not None:
            attention_mask = attention_mask[..., : keys.shape[-2]]
        causal = attention_mask is None and length > 1
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=attention_mask, is_causal=causal)
        return self.o_proj(attended.transpose(1, 2).reshape(rows, length, -1)), None


@contextlib.contextmanager
def injecting_our_attention() -> Iterator[None]:
    """Have auto-gptq inject `FusedAttention` instead of its own."""
    original = LlamaGPTQForCausalLM.fused_attn_module_type
    LlamaGPTQForCausalLM.fused_attn_module_type = FusedAttention
    try:
        yield
    finally:
        LlamaGPTQForCausalLM.fused_attn_module_type = original
