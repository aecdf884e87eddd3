"""Which loader applies a LoRA, and advice that leads to one that does: adapters as PEFT, MLX and others write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.lora_errors import LoraInexpressible
from modules.formats.peft_features import FEATURES, PEFT, unsupported_features
from modules.loaders.registry import LOADERS
from modules.lora.catalog import LoraCatalog, LoraRecord
from modules.lora.support import advice, check_support
from tests.support.checkpoint_files import put, safetensors
from tests.support.lora_files import LAYER, SHAPES, peft

TRANSFORMERS_ADVICE = "Load its model as safetensors (user/tiny) with the loader Transformers."
MERGE_ADVICE = "Merge it into its model with PEFT elsewhere"
SETTINGS: dict[str, object] = {"init_lora_weights": "pissa", "bias": "all"}


def lora(top: Path, extra: dict[str, tuple[int, ...]] | None = None, **config: object) -> LoraRecord:
    peft(top / "cat", SHAPES | (extra or {}), **config)
    return LoraCatalog(top).find("cat")


def test_a_plain_lora_is_supported_by_every_loader(tmp_path: Path) -> None:
    cat = lora(tmp_path, use_rslora=True)
    for loader in LOADERS.values():
        check_support(cat, loader)


def test_advice_names_a_loader_if_and_only_if_it_accepts_the_feature(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, feature in enumerate([*FEATURES, "use_a_later_method"]):
        with subtests.test(feature):
            cat = lora(tmp_path / str(number), **{feature: SETTINGS.get(feature, ["lm_head"])})
            named = [name for name in LOADERS if f"loader {name}." in advice(cat)["en"]]
            assert named == ([] if unsupported_features((feature,), PEFT) else ["Transformers"])
            for name in named:
                check_support(cat, LOADERS[name])
            for loader in LOADERS.values():
                if loader.lora_engine and unsupported_features((feature,), loader.lora_engine):
                    with pytest.raises(LoraInexpressible, match=feature) as refused:
                        check_support(cat, loader)
                    assert refused.value.say("en").endswith(advice(cat)["en"])
                    assert refused.value.say("zh").endswith(advice(cat)["zh"])


def test_a_lora_with_a_whole_output_layer_is_to_be_merged(tmp_path: Path) -> None:
    saved = lora(tmp_path, {"base_model.model.lm_head.weight": (100, 64)}, modules_to_save=["lm_head"])
    for name in ("llama.cpp", "Transformers", "ExLlamav2"):
        with pytest.raises(LoraInexpressible, match=f"used with {name}: .*modules_to_save.*{MERGE_ADVICE}"):
            check_support(saved, LOADERS[name])


def test_a_dora_is_for_transformers(tmp_path: Path) -> None:
    dora = lora(tmp_path, {LAYER + "q_proj.lora_magnitude_vector": (64,)}, use_dora=True)
    with pytest.raises(LoraInexpressible) as refused:
        check_support(dora, LOADERS["llama.cpp"])
    assert refused.value.say("en").endswith(TRANSFORMERS_ADVICE)


def test_embeddings_of_a_resized_vocabulary_are_to_be_merged(tmp_path: Path) -> None:
    resized = lora(tmp_path, {"base_model.model.model.embed_tokens.weight": (101, 64)})
    assert advice(resized)["en"].startswith(MERGE_ADVICE)
    unchanged = lora(tmp_path / "other", {"base_model.model.lm_head.base_layer.weight": (100, 64)})
    assert advice(unchanged)["en"] == TRANSFORMERS_ADVICE


def problem(folder: Path) -> str:
    (record,) = LoraCatalog(folder).all()
    assert record.problem is not None and record.state == "unsupported"
    assert any("一" <= letter <= "鿿" for letter in record.problem.say("zh"))
    return record.problem.say("en")


MLX = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 4, "scale": 2.0}, "model": "user/base"}


@pytest.mark.parametrize("weights", ["adapters.safetensors", "adapters.npz", "adapter_model.safetensors", ""])
def test_an_adapter_of_mlx_is_recognized(tmp_path: Path, weights: str) -> None:
    put(tmp_path / "cat" / "adapter_config.json", MLX)
    if weights:
        put(tmp_path / "cat" / weights, safetensors(4, 4))
    assert "made with MLX" in problem(tmp_path) and "mlx_lm.fuse" in problem(tmp_path)


def test_a_lora_for_images_is_recognized(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "pytorch_lora_weights.safetensors", safetensors(4, 4))
    assert "generates images" in problem(tmp_path)


@pytest.mark.parametrize(
    ("peft_type", "words"),
    [
        *((kind, MERGE_ADVICE) for kind in ("LOHA", "LOKR", "IA3", "VERA", "ADALORA", "OFT", "LN_TUNING")),
        *((kind, "No loader of this program") for kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA")),
    ],
)
def test_an_adapter_of_another_type_comes_with_advice(tmp_path: Path, peft_type: str, words: str) -> None:
    peft(tmp_path / "cat", peft_type=peft_type)
    assert repr(peft_type) in problem(tmp_path) and words in problem(tmp_path)
