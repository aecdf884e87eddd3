"""Run exllamav2 itself on the stand-in for its extension: a script, because the stand-in changes torch in its process.

`python -m tests.support.exllamav2_probe <request.json>`, with the PYTHONPATH of `exl2_folder.with_standin`. "folder" is
the model's, "tokens" are evaluated; optional are "caches", "loras" (folders by their names), "prompts" and a "split" of
the layers between GPUs. With a "window" every layer has that sliding window, and attention is ours. Logits are saved in
"out": "none", those of every cache, those of every LoRA, and "sdpa" with torch's attention. The answers are printed as
JSON, with the numbers of the "cards" that layers seem to be on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ALONE = 6
"""With a cache, so many of the last tokens are evaluated one by one."""


def main() -> None:
    from exllamav2 import ExLlamaV2, ExLlamaV2Config, ExLlamaV2Lora

    from modules.engines.exllamav2.patches import patch_attention

    asked = json.loads(Path(sys.argv[1]).read_text())
    config = ExLlamaV2Config(asked["folder"])
    config.no_sdpa = True
    config.max_seq_len = 1024
    if window := asked.get("window"):
        config.arch.lm.swa, config.sliding_window = True, window
        patch_attention(fused=True)
    model = ExLlamaV2(config)
    model.load(asked.get("split"))
    logits: dict[str, Any] = {"none": _logits(model, asked["tokens"])}
    told: dict[str, Any] = {}
    for kind in asked.get("caches", []):
        logits[f"cache {kind}"] = _through_cache(model, asked["tokens"], kind)
    for name, path in asked.get("loras", {}).items():
        lora = ExLlamaV2Lora.from_directory(model, path)
        logits[name] = _logits(model, asked["tokens"], [lora])
        if _permute(model, lora):
            logits[f"{name}, permuted"] = _logits(model, asked["tokens"], [lora])
        lora.unload()
    if asked.get("loras"):
        logits["unloaded"] = _logits(model, asked["tokens"])
    if "prompts" in asked:
        told = _answers(model, asked["prompts"], asked["cache"])
    config.no_sdpa = False
    logits["sdpa"] = _logits(model, asked["tokens"])
    told["cards"] = sorted({module.device_idx for module in model.modules if module.device_idx >= 0})
    np.savez(asked["out"], **logits)
    print("\n" + json.dumps(told))


def _logits(model: Any, tokens: list[int], loras: list[Any] | None = None) -> Any:
    import torch

    return model.forward(torch.tensor([tokens]), loras=loras)[0].float().numpy()


def _permute(model: Any, lora: Any) -> bool:
    """Permute the LoRA as `exllamav2.patches.permute_lora` does, in another way. Return whether it was needed.

    In EXL2 the rows of down_proj stay in their packed order, and so do the columns of its neighbors, but not what a
    LoRA adds to them. See load() of exllamav2's mlp.py and linear.py."""
    import torch
    from safetensors import safe_open

    found = False
    for name, module in model.modules_dict.items():
        down = name.rpartition(".")[0] + ".down_proj"
        file = model.config.tensor_file_map.get(f"{down}.q_invperm")
        if ".mlp." not in name or not file:
            continue
        with safe_open(file, "pt") as tensors:
            order = torch.argsort(tensors.get_tensor(f"{down}.q_invperm"))
        if name == down and lora in module.lora_a_tensors:
            module.lora_a_tensors[lora], found = module.lora_a_tensors[lora][order].contiguous(), True
        elif name != down and lora in module.lora_b_tensors:
            module.lora_b_tensors[lora], found = module.lora_b_tensors[lora][:, order].contiguous(), True
    model.update_loras()
    return found


def _cache(model: Any, kind: str) -> Any:
    import exllamav2

    return getattr(exllamav2, f"ExLlamaV2Cache{kind and '_' + kind}")(model, max_seq_len=1024)


def _through_cache(model: Any, tokens: list[int], kind: str) -> Any:
    import torch

    cache, parts = _cache(model, kind), [tokens[:-ALONE], *([token] for token in tokens[-ALONE:])]
    found = [model.forward(torch.tensor([part]), cache, last_id_only=False)[0].float().numpy() for part in parts]
    return np.concatenate(found)


def _answers(model: Any, prompts: list[str], kind: str) -> dict[str, Any]:
    """Return greedy answers, given concurrently and one by one."""
    from exllamav2 import ExLlamaV2Tokenizer
    from exllamav2.attn import has_flash_attn_with_paged as paged
    from exllamav2.generator import ExLlamaV2DynamicGenerator, ExLlamaV2Sampler

    tokenizer = ExLlamaV2Tokenizer(model.config)
    words: dict[str, Any] = {"max_batch_size": len(prompts)} if paged else {"paged": False}
    generator = ExLlamaV2DynamicGenerator(model=model, cache=_cache(model, kind), tokenizer=tokenizer, **words)
    wishes = {"max_new_tokens": 6, "gen_settings": ExLlamaV2Sampler.Settings.greedy(), "completion_only": True}
    alone = [generator.generate(prompt, **wishes) for prompt in prompts]
    together = generator.generate(prompts, **wishes) if paged else alone
    return {"paged": paged, "alone": alone, "together": together}


if __name__ == "__main__":
    main()
