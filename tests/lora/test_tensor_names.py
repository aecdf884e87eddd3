"""GGUF names of transformers modules, checked by comparing the logits of tiny random models with an adapter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

from modules.catalog.catalog import Catalog
from modules.core.paths import ROOT
from modules.formats.gguf_header import read_header
from modules.lora.catalog import LoraCatalog
from modules.lora.compatibility import check_fit
from modules.lora.gguf_conversion import converted
from modules.lora.tensor_names import ARCHITECTURES, gguf_name, has_interleaved_heads
from tests.support.checkpoint_files import put
from tests.support.forked import forked
from tests.support.tiny_loras import KINDS, TOKENS, architecture, write

MIN_EFFECT = 50
"""The mean change of the logits by an adapter is at least this many times the largest error; measured: 140 and more."""


@pytest.fixture(scope="module")
def tiny(backend: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of KINDS, made by `tiny_loras`, with the logits of llama.cpp in llama.npz."""
    top = tmp_path_factory.mktemp("tiny")
    forked(write, top / "all")
    jobs = []
    for folder in (top / "all").iterdir():
        lora, model = LoraCatalog(folder / "loras").find("cat"), Catalog(folder).find("model.gguf")
        check_fit(lora, model)
        adapters = {"cat": str(converted(lora, read_header(model.path)))}
        out = str(folder / "llama.npz")
        jobs.append({"model": str(model.path), "adapters": adapters, "tokens": TOKENS, "out": out})
    script = [sys.executable, "-m", "tests.support.llama_lora_reference", str(put(top / "jobs.json", {"jobs": jobs}))]
    subprocess.run(script, cwd=ROOT, check=True, timeout=110)
    return top / "all"


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_applies_the_adapter_as_peft_does(tiny: Path, kind: str) -> None:
    peft, llama = np.load(tiny / kind / "logits.npz"), np.load(tiny / kind / "llama.npz")
    effect = np.abs(peft["cat"] - peft["none"]).mean()
    for name in ("none", "cat"):
        assert np.abs(llama[name] - peft[name]).max() < effect / MIN_EFFECT
    assert np.array_equal(llama["removed"], llama["none"])


def test_every_architecture_is_tested() -> None:
    assert {architecture(kind) for kind in KINDS} == set(ARCHITECTURES) - {"mistral3", "smollm3"}


def test_the_names_agree_with_the_gguf_package(subtests: pytest.Subtests) -> None:
    """The application does not use the gguf package, which is made for converting models."""
    for arch in ARCHITECTURES:
        with subtests.test(arch=arch):
            arch_id = next(number for number, name in MODEL_ARCH_NAMES.items() if name == arch)
            gguf_names = get_tensor_name_map(arch_id, 4)
            for layer in ARCHITECTURES[arch]:
                for part in ("self_attn", "mlp"):
                    module = f"model.layers.2.{part}.{layer}"
                    expected = gguf_names.get_name(f"{module}.weight", try_suffixes=(".weight",))
                    if expected is not None:
                        assert gguf_name(arch, module) == expected
                        break
                else:
                    raise AssertionError(f"gguf does not know {layer} of {arch}")


@pytest.mark.parametrize(
    ("arch", "module", "name"),
    [
        ("llama", "model.layers.11.self_attn.q_proj", "blk.11.attn_q.weight"),
        ("qwen2", "layers.0.mlp.down_proj", "blk.0.ffn_down.weight"),
        ("gemma3", "model.language_model.layers.0.mlp.up_proj", "blk.0.ffn_up.weight"),
        ("gemma3", "language_model.model.layers.0.mlp.gate_proj", "blk.0.ffn_gate.weight"),
        ("phi3", "model.layers.3.self_attn.qkv_proj", "blk.3.attn_qkv.weight"),
        ("phi3", "model.layers.3.mlp.gate_up_proj", "blk.3.ffn_up.weight"),
        ("qwen3", "lm_head", "output.weight"),
    ],
)
def test_a_module_has_a_gguf_name(arch: str, module: str, name: str) -> None:
    assert gguf_name(arch, module) == name


@pytest.mark.parametrize(
    ("arch", "module"),
    [
        ("phi3", "model.layers.3.self_attn.q_proj"),
        ("llama", "model.layers.3.self_attn.qkv_proj"),
        ("llama", "model.embed_tokens"),
        ("gemma3", "model.vision_tower.layers.0.self_attn.q_proj"),
        ("llama", "model.layers.0.mlp.experts.0.up_proj"),
        ("gpt2", "lm_head"),
    ],
)
def test_a_module_unknown_to_llama_cpp_has_no_name(arch: str, module: str) -> None:
    assert gguf_name(arch, module) is None


def test_only_queries_and_keys_of_some_architectures_are_interleaved() -> None:
    assert has_interleaved_heads("llama", "blk.0.attn_q.weight") and has_interleaved_heads(
        "llama", "blk.0.attn_k.weight"
    )
    assert not has_interleaved_heads("llama", "blk.0.attn_v.weight") and not has_interleaved_heads(
        "qwen3", "blk.0.attn_q.weight"
    )
    assert not has_interleaved_heads("llama", "output.weight")
