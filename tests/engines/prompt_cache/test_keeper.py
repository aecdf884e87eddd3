"""The prompts that a loaded model uses: of its files, its options and its LoRAs."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.engines.lora_set import AdapterRequest
from modules.engines.prompt_cache.keeper import PromptKeeper
from modules.engines.prompt_cache.store import PromptStore
from tests.engines.prompt_cache.prompts import prompt, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def opened(model: Path, **facts: object) -> tuple[PromptKeeper, list[PromptStore | None]]:
    """Return the keeper of a model, and the stores that its engine gets, the last one at the end."""
    stores: list[PromptStore | None] = []
    keeper = PromptKeeper(model, facts, stores.append)
    keeper.keep(str(model.parent / "prompts"), 1 << 30)
    return keeper, stores


def lengths(stores: list[PromptStore | None]) -> list[int]:
    store = stores[-1]
    return [] if store is None else [len(saved.tokens) for saved in store.prompts]


def test_prompts_are_used_with_the_same_options_and_files_alone(model: Path) -> None:
    _, stores = opened(model, type_k=1)
    assert stores[-1] is not None
    save(stores[-1], prompt(300))
    assert lengths(opened(model, type_k=1)[1]) == [300]
    assert lengths(opened(model, type_k=8)[1]) == []
    assert lengths(opened(model, type_k=1)[1]) == [300], "other options delete nothing"
    model.write_bytes(b"other weights")
    assert lengths(opened(model, type_k=1)[1]) == []
    assert not list((model.parent / "prompts").iterdir()), "no file of the former weights is of any use"


def test_prompts_are_used_with_the_same_loras_and_weights_alone(model: Path) -> None:
    adapter = model.parent / "lora.gguf"
    adapter.write_bytes(b"lora")
    keeper, stores = opened(model)
    apply = keeper.following(lambda adapters: [1.0 for _ in adapters])

    def request(weight: float) -> AdapterRequest:
        return {"name": "lora", "path": str(adapter), "weight": weight}

    assert apply([request(0.5)]) == [1.0]
    assert stores[-1] is not None
    save(stores[-1], prompt(300))
    for adapters, expected in (([], []), ([request(1.0)], []), ([request(0.0)], []), ([request(0.5)], [300])):
        apply(adapters)
        assert lengths(stores) == expected
    adapter.write_bytes(b"another")
    apply([request(0.5)])
    assert lengths(stores) == []
    adapter.unlink()
    apply([request(0.5)])
    assert stores[-1] is None


def test_what_a_loaded_model_computes_is_not_used_for_a_file_that_has_replaced_its_own(model: Path) -> None:
    keeper, stores = opened(model)
    model.write_bytes(b"other weights")
    keeper.following(lambda adapters: [])([])
    assert stores[-1] is not None
    save(stores[-1], prompt(300))
    assert lengths(stores) == [300]
    assert lengths(opened(model)[1]) == []


def test_a_model_whose_files_are_gone_saves_nothing(model: Path) -> None:
    model.unlink()
    assert opened(model)[1] == [None]
