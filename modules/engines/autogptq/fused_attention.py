"""auto-gptq's fused attention, made to fit transformers 4.51: queries, keys and values come out of one layer.

auto-gptq 0.7.1 knows the attention of transformers 4.36: since 4.48 positions are turned outside of it, it no longer
tells its own sizes, and it returns two things instead of three. auto-gptq will see no further version, and this goes
when the overlay does; a test holds that its own does not fit.
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
    def inject_to_model(cls, model: Any, **words: Any) -> None:
        attentions: list[Any] = [each for each in model.modules() if isinstance(each, LlamaAttention)]
        for each in attentions:
            each.hidden_size, each.num_heads = each.q_proj.infeatures, each.config.num_attention_heads
            each.rotary_emb = None
        super().inject_to_model(model, **words)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_value: Any = None,
        cache_position: Tensor | None = None,
        **_as_transformers: object,
    ) -> tuple[Tensor, None]:
        rows, length, _ = hidden_states.shape
        parts = self.qkv_proj(hidden_states).split(self.hidden_size, dim=2)
        queries, keys, values = (part.view(rows, length, self.num_heads, -1).transpose(1, 2) for part in parts)
        cos, sin = position_embeddings
        queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
        if past_key_value is not None:
            more = {"sin": sin, "cos": cos, "cache_position": cache_position}
            keys, values = past_key_value.update(keys, values, self.layer_idx, more)
        if attention_mask is not None:
            attention_mask = attention_mask[..., : keys.shape[-2]]
        causal = attention_mask is None and length > 1
        read = scaled_dot_product_attention(queries, keys, values, attn_mask=attention_mask, is_causal=causal)
        return self.o_proj(read.transpose(1, 2).reshape(rows, length, -1)), None


@contextlib.contextmanager
def ours_injected() -> Iterator[None]:
    """auto-gptq injects this one, where it is to inject its own."""
    before = LlamaGPTQForCausalLM.fused_attn_module_type
    LlamaGPTQForCausalLM.fused_attn_module_type = FusedAttention
    try:
        yield
    finally:
        LlamaGPTQForCausalLM.fused_attn_module_type = before
