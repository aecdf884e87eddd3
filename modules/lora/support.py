"""Tell which loaders apply a LoRA in PEFT's format, and what to do with one that the chosen loader does not."""

from __future__ import annotations

from modules.core.errors import Words, both
from modules.core.lora_errors import LoraInexpressible
from modules.formats.peft_features import PEFT, is_base_weight, is_own_tensor, merges, unsupported_features
from modules.loaders.registry import LOADERS, Loader
from modules.lora.adapter_files import MERGE, UNUSABLE, tensor_name
from modules.lora.catalog import LoraRecord


def check_support(lora: LoraRecord, loader: Loader) -> None:
    """Raise LoraInexpressible if the LoRA asks for something that the loader's engine does not apply."""
    features = lora.config.features if lora.config else ()
    if loader.lora_engine and (unsupported := unsupported_features(features, loader.lora_engine)):
        raise inexpressible(lora, loader.name, uses(unsupported[0]))


def inexpressible(lora: LoraRecord, loader: str, what: Words) -> LoraInexpressible:
    """Return the error for a LoRA that `loader` cannot apply, with advice that leads to one that can."""
    return LoraInexpressible(lora.name, loader, what, advice(lora))


def uses(name: str) -> Words:
    """Return the sentence that names a feature, or a tensor, as the reason."""
    return {
        "en": f"it changes more than linear layers: {tensor_name(name)}.",
        "zh": f"除线性层外，它还使用了{tensor_name(name, 'zh')}。",
    }


def advice(lora: LoraRecord) -> Words:
    """Return how the LoRA can be used otherwise: by a loader that would accept it, or merged into its model."""
    features = lora.config.features if lora.config else ()
    foreign = [name for name in lora.others if not is_own_tensor(name) and not is_base_weight(name)]
    accepting = [
        loader.name
        for loader in LOADERS.values()
        if loader.lora_engine == PEFT and "safetensors" in loader.formats and not unsupported_features(features, PEFT)
    ]
    if accepting and not foreign:
        names = " / ".join(accepting)
        model = {"en": f" ({lora.base})", "zh": f"（{lora.base}）"} if lora.base else both("")
        return {
            "en": f"Load its model as safetensors{model['en']} with the loader {names}.",
            "zh": f"请加载 safetensors 格式的模型{model['zh']}，并使用加载器 {names}。",
        }
    return MERGE if merges(features) else UNUSABLE
