"""Compare the model of a transformers engine before, with and after LoRAs, in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.forked import forked


def apply_and_remove(model: Path, loras: Path, names: list[str], **options: Any) -> dict[str, Any]:
    """Apply the LoRAs `names` of the folder `loras`, all at once, and remove them again.

    "changed" is the largest change of a logit with the LoRAs. After they have been removed: "same" says whether
    every logit is identical to the last bit, "added" names modules that did not exist before, "replaced" those that are
    other objects than before.
    """
    return forked(_apply_and_remove, model, loras, names, options)


def _apply_and_remove(path: Path, loras: Path, names: list[str], options: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from modules.engines.hf.loader import LOADER
    from modules.engines.hf.lora import PeftAdapters

    settings = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form=options))
    engine: Any = LOADER.load(path, settings, lambda _: None)
    model: Any = engine.model
    adapters = PeftAdapters(model, 64, engine.forget)
    modules = dict(model.module.named_modules())
    before = adapters.probe()
    adapters.activate([(adapters.open(loras / name), 1.0) for name in names])
    with_loras = adapters.probe()
    adapters.activate([])
    after = adapters.probe()
    restored = dict(model.module.named_modules())
    return {
        "changed": float(np.abs(with_loras - before).max()),
        "same": bool((before == after).all()),
        "added": sorted(set(restored) - set(modules)),
        "replaced": sorted(name for name, module in modules.items() if restored.get(name) is not module),
    }
