"""Run exllamav2 with the stand-in for its extension: a script, because the stand-in patches torch.

`python -m tests.support.exllamav2_probe <request.json>`, with the environment of
`exl2_folder.with_standin`. The request has the "folder" of the model, the "tokens" to evaluate and "out", a
file for logits. Optional are "caches", "loras" (folders by name), "prompts" and a "split" of the layers between GPUs.
With a "window" every layer has that sliding window, and attention is patched. The logits are saved under "none", the
names of caches and LoRAs, and "sdpa" for torch's attention. The answers are printed as JSON, with the numbers of the
"gpus" that exllamav2 has put layers on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ONE_BY_ONE = 6
"""With a cache, this number of tokens at the end are evaluated one by one."""


def main() -> None:
    from exllamav2 import ExLlamaV2, ExLlamaV2Lora

    from modules.engines.exllamav2.patches import patch_attention
    from tests.support.version_5_files import exllamav2_config

    request = json.loads(Path(sys.argv[1]).read_text())
    config = exllamav2_config(request["folder"])
    config.no_sdpa = True
    config.max_seq_len = 1024
    if window := request.get("window"):
        config.arch.lm.swa, config.sliding_window = True, window
        patch_attention(fused=True)
    model = ExLlamaV2(config)
    model.load(request.get("split"))
    logits: dict[str, Any] = {"none": _logits(model, request["tokens"])}
    output: dict[str, Any] = {}
    for kind in request.get("caches", []):
        logits[f"cache {kind}"] = _through_cache(model, request["tokens"], kind)
    for name, path in request.get("loras", {}).items():
        lora = ExLlamaV2Lora.from_directory(model, path)
        logits[name] = _logits(model, request["tokens"], [lora])
        if _permute(model, lora):
            logits[f"{name}, permuted"] = _logits(model, request["tokens"], [lora])
        lora.unload()
    if request.get("loras"):
        logits["unloaded"] = _logits(model, request["tokens"])
    if "prompts" in request:
        output = _answers(model, request["prompts"], request["cache"])
    config.no_sdpa = False
    logits["sdpa"] = _logits(model, request["tokens"])
    output["gpus"] = sorted({module.device_idx for module in model.modules if module.device_idx >= 0})
    np.savez(request["out"], **logits)
    print("\n" + json.dumps(output))


def _logits(model: Any, tokens: list[int], loras: list[Any] | None = None) -> Any:
    import torch

    return model.forward(torch.tensor([tokens]), loras=loras)[0].float().numpy()


def _permute(model: Any, lora: Any) -> bool:
    """Permute a LoRA as `exllamav2.patches.permute_lora` does, by other means. Return whether that was needed.

    In EXL2 the rows of down_proj and the columns of gate_proj and up_proj stay in their packed order, but exllamav2
    does not reorder the LoRA to match. See load() of its mlp.py and linear.py.
    """
    import torch
    from safetensors import safe_open

    permuted = False
    for name, module in model.modules_dict.items():
        down = name.rpartition(".")[0] + ".down_proj"
        file = model.config.tensor_file_map.get(f"{down}.q_invperm")
        if ".mlp." not in name or not file:
            continue
        with safe_open(file, "pt") as tensors:
            order = torch.argsort(tensors.get_tensor(f"{down}.q_invperm"))
        if name == down and lora in module.lora_a_tensors:
            module.lora_a_tensors[lora], permuted = module.lora_a_tensors[lora][order].contiguous(), True
        elif name != down and lora in module.lora_b_tensors:
            module.lora_b_tensors[lora], permuted = module.lora_b_tensors[lora][:, order].contiguous(), True
    model.update_loras()
    return permuted


def _cache(model: Any, kind: str) -> Any:
    import exllamav2

    return getattr(exllamav2, f"ExLlamaV2Cache{kind and '_' + kind}")(model, max_seq_len=1024)


def _through_cache(model: Any, tokens: list[int], kind: str) -> Any:
    import torch

    cache, batches = _cache(model, kind), [tokens[:-ONE_BY_ONE], *([token] for token in tokens[-ONE_BY_ONE:])]
    logits = [model.forward(torch.tensor([batch]), cache, last_id_only=False)[0].float().numpy() for batch in batches]
    return np.concatenate(logits)


def _answers(model: Any, prompts: list[str], kind: str) -> dict[str, Any]:
    """Return the greedy answers to concurrent requests and to single ones."""
    from exllamav2 import ExLlamaV2Tokenizer
    from exllamav2.attn import has_flash_attn_with_paged as paged
    from exllamav2.generator import ExLlamaV2DynamicGenerator, ExLlamaV2Sampler

    tokenizer = ExLlamaV2Tokenizer(model.config)
    options: dict[str, Any] = {"max_batch_size": len(prompts)} if paged else {"paged": False}
    generator = ExLlamaV2DynamicGenerator(model=model, cache=_cache(model, kind), tokenizer=tokenizer, **options)
    settings = {"max_new_tokens": 6, "gen_settings": ExLlamaV2Sampler.Settings.greedy(), "completion_only": True}
    single = [generator.generate(prompt, **settings) for prompt in prompts]
    concurrent = generator.generate(prompts, **settings) if paged else single
    return {"paged": paged, "single": single, "concurrent": concurrent}


if __name__ == "__main__":
    main()
