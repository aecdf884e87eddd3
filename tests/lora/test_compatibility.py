"""Whether a LoRA fits a model, by the names and shapes of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.core.lora_errors import LoraMismatch
from modules.lora.catalog import LoraCatalog, LoraRecord
from modules.lora.compatibility import check_fit, mismatches
from tests.support.checkpoint_files import CONFIG, checkpoint, put, tensors
from tests.support.gguf_files import MODEL, Tensor, gguf
from tests.support.lora_files import LAYER, SHAPES, adapter, peft

PLAIN = {
    "model.embed_tokens.weight": (100, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.v_proj.weight": (32, 64),
}
GGUF = (
    Tensor("token_embd.weight", (64, 100)),
    Tensor("blk.0.attn_q.weight", (64, 64)),
    Tensor("blk.0.attn_v.weight", (64, 32)),
)


def folder(top: Path, shapes: Mapping[str, Sequence[int]] = PLAIN) -> ModelRecord:
    put(checkpoint(top / "models" / "m", config=CONFIG) / "model.safetensors", tensors(shapes))
    return Catalog(top / "models").find("m")


def file(top: Path, parts: Sequence[Tensor] = GGUF, **changes: object) -> ModelRecord:
    put(top / "models" / "m.gguf", gguf({**MODEL, **{f"general.{key}": each for key, each in changes.items()}}, parts))
    return Catalog(top / "models").find("m.gguf")


def lora(top: Path, shapes: Mapping[str, Sequence[int]] = SHAPES, **config: object) -> LoraRecord:
    peft(top / "loras" / "cat", shapes, **config)
    return LoraCatalog(top / "loras").find("cat")


def pair(module: str, inputs: int, outputs: int) -> dict[str, tuple[int, int]]:
    return {f"{module}.lora_A.weight": (4, inputs), f"{module}.lora_B.weight": (outputs, 4)}


def trouble(lora: LoraRecord, model: ModelRecord) -> str:
    with pytest.raises(LoraMismatch) as caught:
        check_fit(lora, model)
    assert any("一" <= letter <= "鿿" for letter in caught.value.say("zh"))
    return caught.value.say("en")


def test_a_lora_fits_the_folder_and_the_gguf_of_its_model(tmp_path: Path) -> None:
    check_fit(lora(tmp_path), folder(tmp_path))
    check_fit(lora(tmp_path), file(tmp_path))
    adapter(tmp_path / "loras" / "dog.gguf")
    check_fit(LoraCatalog(tmp_path / "loras").find("dog"), file(tmp_path))


def test_the_first_tensor_that_does_not_fit_is_named_and_the_others_counted(tmp_path: Path) -> None:
    wider = {name: tuple(2 * each for each in shape) for name, shape in PLAIN.items()}
    said = trouble(lora(tmp_path), folder(tmp_path, wider))
    assert said == (
        f"The LoRA cat does not fit m: {LAYER}q_proj.lora_A.weight: the module has 128 inputs in the model, "
        "and 64 in the LoRA. 3 more of its tensors do not fit either."
    )


def test_a_gguf_model_is_checked_the_same_way(tmp_path: Path) -> None:
    parts = (*GGUF[:2], Tensor("blk.0.attn_v.weight", (64, 48)))
    said = trouble(lora(tmp_path), file(tmp_path, parts))
    assert said.endswith(f"{LAYER}v_proj.lora_B.weight: the module has 48 outputs in the model, and 32 in the LoRA.")


@pytest.mark.parametrize("module", ["model.layers.7.self_attn.q_proj", "model.layers.0.attn.c_attn"])
def test_a_module_missing_from_the_model_is_named(tmp_path: Path, module: str) -> None:
    stranger = lora(tmp_path, pair(f"base_model.model.{module}", 64, 64))
    for model in (folder(tmp_path), file(tmp_path)):
        assert f"{module}.lora_A.weight: the model has no such module" in trouble(stranger, model)


def test_an_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "loras" / "dog.gguf")
    dog = LoraCatalog(tmp_path / "loras").find("dog")
    assert "made for the architecture 'llama', but the model is 'qwen2'" in trouble(
        dog, file(tmp_path, architecture="qwen2")
    )
    assert "can only be used with GGUF models" in trouble(dog, folder(tmp_path))


def of_experts(top: Path, *more: int) -> LoraRecord:
    pair = (Tensor("blk.0.attn_q.weight.lora_a", (64, 4, *more)), Tensor("blk.0.attn_q.weight.lora_b", (4, 64, *more)))
    adapter(top / "loras" / "dog.gguf", pair)
    return LoraCatalog(top / "loras").find("dog")


def test_a_gguf_adapter_must_have_as_many_experts_as_the_model(tmp_path: Path) -> None:
    """llama.cpp does not check it, and would read beyond the end of the tensor."""
    plain = file(tmp_path)
    assert mismatches(of_experts(tmp_path), plain) == mismatches(of_experts(tmp_path, 1), plain) == []
    assert "has 3 experts for this module, and the model 1." in trouble(of_experts(tmp_path, 3), plain)
    mixed = file(tmp_path, (GGUF[0], Tensor("blk.0.attn_q.weight", (64, 64, 8), 8)))
    assert mismatches(of_experts(tmp_path, 8), mixed) == []
    assert "has 3 experts for this module, and the model 8." in trouble(of_experts(tmp_path, 3), mixed)


def test_embeddings_shared_with_the_output_are_refused_for_llama_cpp(tmp_path: Path) -> None:
    """With such an adapter llama.cpp aborts the process."""
    words = (Tensor("token_embd.weight.lora_a", (4, 100)), Tensor("token_embd.weight.lora_b", (4, 64)))
    adapter(tmp_path / "loras" / "dog.gguf", words)
    dog = LoraCatalog(tmp_path / "loras").find("dog")
    assert "shares its embeddings with the output layer" in trouble(dog, file(tmp_path))
    assert mismatches(dog, file(tmp_path, (*GGUF, Tensor("output.weight", (64, 100))))) == []


def test_prefixes_of_module_names_do_not_matter(tmp_path: Path) -> None:
    seeing = {name.replace("model.", "model.language_model.", 1): shape for name, shape in PLAIN.items()}
    assert mismatches(lora(tmp_path), folder(tmp_path, seeing)) == []


def test_an_output_that_shares_the_embeddings_fits(tmp_path: Path) -> None:
    output = pair("base_model.model.lm_head", 64, 100)
    assert mismatches(lora(tmp_path, output), folder(tmp_path)) == []
    assert len(mismatches(lora(tmp_path, pair("base_model.model.lm_head", 64, 99)), folder(tmp_path))) == 1


def test_transposed_weights_are_compared_transposed(tmp_path: Path) -> None:
    model = folder(tmp_path, {"h.0.attn.c_attn.weight": (64, 192)})
    shapes = pair("base_model.model.transformer.h.0.attn.c_attn", 64, 192)
    assert mismatches(lora(tmp_path, shapes, fan_in_fan_out=True), model) == []
    assert len(mismatches(lora(tmp_path, shapes), model)) == 2


def test_outputs_of_quantized_layers_are_compared(tmp_path: Path) -> None:
    layer = "model.layers.0.self_attn."
    packed = {
        f"{layer}{name}.{kind}": shape
        for name, out in (("q_proj", 64), ("v_proj", 48))
        for kind, shape in (("qweight", (8, out)), ("scales", (1, out)))
    }
    (found,) = mismatches(lora(tmp_path), folder(tmp_path, packed))
    assert found.tensor == f"{LAYER}v_proj.lora_B.weight"


def test_a_problem_of_the_lora_itself_comes_first(tmp_path: Path) -> None:
    broken = lora(tmp_path, r=16)
    with pytest.raises(type(broken.problem or ValueError()), match="the rank is 16"):
        check_fit(broken, folder(tmp_path))
