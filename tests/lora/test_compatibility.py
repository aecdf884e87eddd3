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


def folder_model(top: Path, shapes: Mapping[str, Sequence[int]] = PLAIN) -> ModelRecord:
    put(checkpoint(top / "models" / "m", config=CONFIG) / "model.safetensors", tensors(shapes))
    return Catalog(top / "models").find("m")


def gguf_model(top: Path, parts: Sequence[Tensor] = GGUF, **changes: object) -> ModelRecord:
    metadata = MODEL | {f"general.{key}": value for key, value in changes.items()}
    put(top / "models" / "m.gguf", gguf(metadata, parts))
    return Catalog(top / "models").find("m.gguf")


def peft_lora(top: Path, shapes: Mapping[str, Sequence[int]] = SHAPES, **config: object) -> LoraRecord:
    peft(top / "loras" / "cat", shapes, **config)
    return LoraCatalog(top / "loras").find("cat")


def pair(module: str, inputs: int, outputs: int) -> dict[str, tuple[int, int]]:
    return {f"{module}.lora_A.weight": (4, inputs), f"{module}.lora_B.weight": (outputs, 4)}


def mismatch_text(lora: LoraRecord, model: ModelRecord) -> str:
    with pytest.raises(LoraMismatch) as caught:
        check_fit(lora, model)
    assert any("一" <= letter <= "鿿" for letter in caught.value.say("zh"))
    return caught.value.say("en")


def test_a_lora_fits_the_folder_and_the_gguf_of_its_model(tmp_path: Path) -> None:
    check_fit(peft_lora(tmp_path), folder_model(tmp_path))
    check_fit(peft_lora(tmp_path), gguf_model(tmp_path))
    adapter(tmp_path / "loras" / "dog.gguf")
    check_fit(LoraCatalog(tmp_path / "loras").find("dog"), gguf_model(tmp_path))


def test_the_first_tensor_that_does_not_fit_is_named_and_the_others_counted(tmp_path: Path) -> None:
    wider = {name: tuple(2 * size for size in shape) for name, shape in PLAIN.items()}
    text = mismatch_text(peft_lora(tmp_path), folder_model(tmp_path, wider))
    assert text == (
        f"The LoRA cat does not fit m: {LAYER}q_proj.lora_A.weight: the module has 128 inputs in the model, "
        "and 64 in the LoRA. 3 more of its tensors do not fit either."
    )


def test_a_lora_that_does_not_fit_a_gguf_model_is_refused_in_the_same_words(tmp_path: Path) -> None:
    parts = (*GGUF[:2], Tensor("blk.0.attn_v.weight", (64, 48)))
    text = mismatch_text(peft_lora(tmp_path), gguf_model(tmp_path, parts))
    assert text.endswith(f"{LAYER}v_proj.lora_B.weight: the module has 48 outputs in the model, and 32 in the LoRA.")


@pytest.mark.parametrize("module", ["model.layers.7.self_attn.q_proj", "model.layers.0.attn.c_attn"])
def test_a_module_missing_from_the_model_is_named(tmp_path: Path, module: str) -> None:
    unknown_module = peft_lora(tmp_path, pair(f"base_model.model.{module}", 64, 64))
    for model in (folder_model(tmp_path), gguf_model(tmp_path)):
        assert f"{module}.lora_A.weight: the model has no such module" in mismatch_text(unknown_module, model)


def test_an_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "loras" / "dog.gguf")
    dog = LoraCatalog(tmp_path / "loras").find("dog")
    assert "made for the architecture 'llama', but the model is 'qwen2'" in mismatch_text(
        dog, gguf_model(tmp_path, architecture="qwen2")
    )
    assert "can only be used with GGUF models" in mismatch_text(dog, folder_model(tmp_path))


def expert_lora(top: Path, *experts: int) -> LoraRecord:
    """Write a GGUF adapter for a module with that many experts; for a module without experts if none is given."""
    tensors = (
        Tensor("blk.0.attn_q.weight.lora_a", (64, 4, *experts)),
        Tensor("blk.0.attn_q.weight.lora_b", (4, 64, *experts)),
    )
    adapter(top / "loras" / "dog.gguf", tensors)
    return LoraCatalog(top / "loras").find("dog")


def test_a_gguf_adapter_must_have_as_many_experts_as_the_model(tmp_path: Path) -> None:
    """llama.cpp does not check it, and would read beyond the end of the tensor."""
    plain = gguf_model(tmp_path)
    assert mismatches(expert_lora(tmp_path), plain) == mismatches(expert_lora(tmp_path, 1), plain) == []
    assert "has 3 experts for this module, and the model 1." in mismatch_text(expert_lora(tmp_path, 3), plain)
    mixed = gguf_model(tmp_path, (GGUF[0], Tensor("blk.0.attn_q.weight", (64, 64, 8), 8)))
    assert mismatches(expert_lora(tmp_path, 8), mixed) == []
    assert "has 3 experts for this module, and the model 8." in mismatch_text(expert_lora(tmp_path, 3), mixed)


def test_embeddings_shared_with_the_output_are_refused_for_llama_cpp(tmp_path: Path) -> None:
    """With such an adapter llama.cpp aborts the process."""
    embeddings = (Tensor("token_embd.weight.lora_a", (4, 100)), Tensor("token_embd.weight.lora_b", (4, 64)))
    adapter(tmp_path / "loras" / "dog.gguf", embeddings)
    dog = LoraCatalog(tmp_path / "loras").find("dog")
    assert "shares its embeddings with the output layer" in mismatch_text(dog, gguf_model(tmp_path))
    assert mismatches(dog, gguf_model(tmp_path, (*GGUF, Tensor("output.weight", (64, 100))))) == []


def test_a_lora_for_an_output_shared_with_the_embeddings_is_for_transformers(tmp_path: Path) -> None:
    head = peft_lora(tmp_path, SHAPES | pair("base_model.model.lm_head", 64, 100))
    text = mismatch_text(head, gguf_model(tmp_path))
    assert "shares its output layer with its embeddings" in text and "with the loader Transformers." in text
    assert mismatches(head, folder_model(tmp_path)) == []
    assert mismatches(head, gguf_model(tmp_path, (*GGUF, Tensor("output.weight", (64, 100))))) == []


def test_prefixes_of_module_names_do_not_matter(tmp_path: Path) -> None:
    multimodal = {name.replace("model.", "model.language_model.", 1): shape for name, shape in PLAIN.items()}
    assert mismatches(peft_lora(tmp_path), folder_model(tmp_path, multimodal)) == []


def test_an_output_that_shares_the_embeddings_fits(tmp_path: Path) -> None:
    output = pair("base_model.model.lm_head", 64, 100)
    assert mismatches(peft_lora(tmp_path, output), folder_model(tmp_path)) == []
    assert len(mismatches(peft_lora(tmp_path, pair("base_model.model.lm_head", 64, 99)), folder_model(tmp_path))) == 1


def test_transposed_weights_are_compared_transposed(tmp_path: Path) -> None:
    model = folder_model(tmp_path, {"h.0.attn.c_attn.weight": (64, 192)})
    shapes = pair("base_model.model.transformer.h.0.attn.c_attn", 64, 192)
    assert mismatches(peft_lora(tmp_path, shapes, fan_in_fan_out=True), model) == []
    assert len(mismatches(peft_lora(tmp_path, shapes), model)) == 2


def test_outputs_of_quantized_layers_are_compared(tmp_path: Path) -> None:
    layer = "model.layers.0.self_attn."
    packed = {
        f"{layer}{name}.{kind}": shape
        for name, out in (("q_proj", 64), ("v_proj", 48))
        for kind, shape in (("qweight", (8, out)), ("scales", (1, out)))
    }
    (mismatch,) = mismatches(peft_lora(tmp_path), folder_model(tmp_path, packed))
    assert mismatch.tensor == f"{LAYER}v_proj.lora_B.weight"


def test_a_problem_of_the_lora_itself_comes_first(tmp_path: Path) -> None:
    broken = peft_lora(tmp_path, r=16)
    with pytest.raises(type(broken.problem or ValueError()), match="the rank is 16"):
        check_fit(broken, folder_model(tmp_path))


def test_what_cannot_be_compared_is_left_to_the_loader(tmp_path: Path) -> None:
    """Experts of PEFT are named differently, and packed weights have another shape than their layer."""
    experts = pair("base_model.model.model.layers.0.mlp.experts.0.up_proj", 5, 5)
    assert mismatches(peft_lora(tmp_path, experts), folder_model(tmp_path)) == []
    assert mismatches(peft_lora(tmp_path), gguf_model(tmp_path, architecture="rwkv7")) == []
    packed = tensors(PLAIN | {"model.layers.0.self_attn.q_proj.weight": (2048, 1)})
    old, new = b'"dtype": "BF16", "shape": [2048, 1]', b'"dtype": "U8",   "shape": [4096, 1]'
    assert len(old) == len(new) and old in packed
    put(checkpoint(tmp_path / "models" / "packed", config=CONFIG) / "model.safetensors", packed.replace(old, new))
    assert mismatches(peft_lora(tmp_path), Catalog(tmp_path / "models").find("packed")) == []
