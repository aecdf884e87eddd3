"""A trained adapter has the same effect in stock PEFT, in our Transformers engine, and in llama.cpp as a GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.engines.training.job import RESULT
from modules.formats.gguf_header import read_header
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.lora.catalog import LoraCatalog
from modules.lora.gguf_conversion import converted
from tests.lora.test_gguf_conversion import run
from tests.support.forked import forked
from tests.support.training_jobs import make_job, samples, train

pytestmark = pytest.mark.usefixtures("backend")

TOKENS = [504, 3575, 282, 4649, 314, 7042, 30, 339, 5745, 338, 260, 1119]


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the LoRA "trained" for the tiny model."""
    top = tmp_path_factory.mktemp("trained")
    job = make_job(top / "job", tiny_folder, samples(8), learning_rate=0.01, lora_dropout=0, use_rslora=True)
    events = forked(train, job)
    assert events[-1]["event"] == "done", events[-1]
    shutil.copytree(job / RESULT, top / "loras" / "trained")
    return top / "loras"


def logits_of_both(base: Path, loras: Path) -> dict[str, Any]:
    """Return the logits of PEFT, of our engine, and of the base alone."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from modules.engines.hf.loader import LOADER
    from modules.engines.hf.lora import PeftAdapters

    ids = torch.tensor([TOKENS])
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={"cpu": True}))
    engine: Any = LOADER.load(base, options, lambda _: None)
    adapters = PeftAdapters(engine.model, 64, engine.forget)
    adapters.activate([(adapters.open(loras / "trained"), 1.0)])
    with torch.no_grad():
        found = {"base": plain(ids).logits, "ours": engine.model.module(ids).logits.float()}
        found["peft"] = peft.PeftModel.from_pretrained(plain, loras / "trained").eval()(ids).logits
    return {name: logits[0].numpy() for name, logits in found.items()}


def test_a_trained_adapter_gives_the_same_logits_everywhere(
    tiny: Path, tiny_folder: Path, trained: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    found = forked(logits_of_both, tiny_folder, trained)
    lora = LoraCatalog(trained).find("trained")
    files = {"trained": str(converted(lora, read_header(tiny)))}
    job = {"model": str(tiny), "adapters": files, "tokens": TOKENS, "out": str(tmp_path / "llama.npz")}
    run("llama_lora_reference", {"jobs": [job]}, tmp_path / "llama.json")
    llama = np.load(tmp_path / "llama.npz")
    effect = float(np.abs(found["peft"] - found["base"]).max())
    assert effect > 1
    with subtests.test(what="our engine"):
        assert float(np.abs(found["ours"] - found["peft"]).max()) < 1e-4
    with subtests.test(what="llama.cpp"):
        alone = float(np.abs(llama["none"] - found["base"]).max())  # of its own arithmetic
        apart = float(np.abs(llama["trained"] - found["peft"]).max())
        assert apart < 3 * alone and apart < effect / 100
