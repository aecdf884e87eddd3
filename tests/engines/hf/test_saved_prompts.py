"""KV caches of random keys and values in files: saved, read again whole or in part, and refused."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.core.events import Json
from modules.engines.hf import kv_cache
from modules.engines.hf.kv_cache import GrowableLayer, PrefixCache
from modules.engines.hf.saved_prompts import PromptFiles, state_facts
from tests.engines.prompt_cache.prompts import open_store, prompt

pytestmark = pytest.mark.usefixtures("backend")

TOKENS = list(prompt(300))


def new_cache(dtype: torch.dtype = torch.float32) -> Any:
    """Return a cache of two layers with 300 tokens, whose keys have other sizes than their values."""
    layers = [GrowableLayer(), GrowableLayer()]
    for layer in layers:
        layer.update(torch.randn(1, 2, 300, 3).to(dtype), torch.randn(1, 2, 300, 5).to(dtype))
    return kv_cache.cache_of(layers)


def prefixes(folder: Path) -> PrefixCache:
    store = PrefixCache(lambda: None, 1 << 30)
    store.files = PromptFiles(open_store(folder))
    return store


def save(folder: Path, cache: Any) -> None:
    store = prefixes(folder)
    store.store(TOKENS, cache)
    for _ in store.save(float("inf"), at_end=False):
        pass


def test_a_saved_cache_is_the_same_when_it_is_read(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with subtests.test(str(dtype)):
            folder, cache = tmp_path / str(dtype), new_cache(dtype)
            save(folder, cache)
            found, length = prefixes(folder).take([*TOKENS, 1, 2])
            assert length == 300 and kv_cache.is_growable(found)
            for ours, theirs in zip(found.layers, cache.layers, strict=True):
                assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
                keys, _ = ours.update(theirs.keys[:, :, :4], theirs.values[:, :, :4])
                assert torch.equal(keys[:, :, 300:], theirs.keys[:, :, :4]), "there is room for more tokens"


def test_of_a_saved_cache_only_the_common_tokens_are_used(tmp_path: Path) -> None:
    cache = new_cache()
    save(tmp_path, cache)
    found, length = prefixes(tmp_path).take([*TOKENS[:200], 1, 2])
    assert length == 200
    assert torch.equal(found.layers[1].values, cache.layers[1].values[:, :, :200])


def test_what_is_in_memory_is_preferred(tmp_path: Path) -> None:
    save(tmp_path, new_cache())
    store, cache = prefixes(tmp_path), new_cache()
    store.store(TOKENS, cache)
    assert store.take([*TOKENS, 1])[0] is cache


def test_a_layout_that_does_not_fit_the_state_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for layout in (None, [], [["float32"]], [["int8", "cpu", 1, 1, 1]], [["float32", "cpu", 1, 4, 4]] * 3):
        for _ in store.write(array("i", TOKENS), layout, 4, [memoryview(b"1234")]):
            pass
        assert PromptFiles(store).read([*TOKENS, 1], 0) is None
        assert not list(tmp_path.iterdir())


def test_keys_and_values_depend_on_the_options_but_not_on_the_name_of_a_folder_of_links() -> None:
    def facts(folder: str, **options: object) -> Json:
        return state_facts({"pretrained_model_name_or_path": folder, "dtype": "float32", **options}, ["cpu"])

    assert facts("/tmp/webui-model-a/tiny") == facts("/tmp/webui-model-b/tiny", max_memory={"cpu": 1})
    assert facts("/models/tiny") != facts("/models/tiny", dtype="bfloat16")
    assert facts("/models/tiny") != facts("/models/tiny", rope_parameters={"rope_theta": 1e6})
