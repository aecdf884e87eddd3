"""Which files of a folder are the model's weights, and whether transformers would find them by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from modules.formats.weight_files import (
    choose_weights,
    files_below,
    foreign_format,
    is_found_by_transformers,
    several_models,
)
from tests.support.checkpoint_files import put

FOLDER = Path("/models/tiny")
STATUS = Path(__file__).stat()
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def choose(
    names: Collection[str], indexed: Collection[str] = (), tensors: Mapping[str, set[str]] | None = None
) -> tuple[set[str], tuple[str, ...]]:
    """Return the names of the chosen files, and the rivals."""
    weights = {FOLDER / name: STATUS for name in names}
    choice = choose_weights(weights, {FOLDER / name for name in indexed}, lambda path: (tensors or {})[path.name])
    return {path.name for path in choice.needed}, choice.rivals


@pytest.mark.parametrize(
    ("names", "indexed", "chosen"),
    [
        (["model.safetensors", *SHARDS], SHARDS, {"model.safetensors"}),
        (SHARDS, SHARDS, set(SHARDS)),
        (SHARDS, (), set(SHARDS)),
        (SHARDS[:1], SHARDS, set(SHARDS)),
        ([], SHARDS, set(SHARDS)),
        (SHARDS, [f"model-0000{n}-of-00006.safetensors" for n in range(1, 7)], set(SHARDS)),
        (["merged.safetensors"], SHARDS, {"merged.safetensors"}),
        (["weights.safetensors"], (), {"weights.safetensors"}),
        (["model.fp16.safetensors"], (), {"model.fp16.safetensors"}),
        (["pytorch_model.fp16.bin", "arguments.bin"], (), {"pytorch_model.fp16.bin"}),
        ([*SHARDS, "merged.safetensors"], (), set(SHARDS)),
        ([SHARDS[0], "merged.safetensors"], (), {"merged.safetensors"}),
    ],
)
def test_the_weights_are_one_whole_file_or_those_of_the_index_or_the_set_that_is_there(
    names: list[str], indexed: list[str], chosen: set[str]
) -> None:
    assert choose(names, indexed) == (chosen, ())


def test_files_without_a_common_tensor_are_one_model() -> None:
    tensors = {"layers.safetensors": {"a", "b"}, "head.safetensors": {"c"}}
    assert choose(list(tensors), tensors=tensors) == (set(tensors), ())


def test_files_with_the_same_tensors_are_rivals() -> None:
    tensors = {"old.safetensors": {"a", "b"}, "new.safetensors": {"a", "b"}, "empty.safetensors": set[str]()}
    assert choose(list(tensors)[:2], tensors=tensors)[1] == ("new", "old")
    assert choose(list(tensors)[1:], tensors=tensors)[1] == ("empty", "new")
    problem = several_models(FOLDER, ("new", "old"))
    assert problem is not None and "several models in it: new, old." in problem.say("en")
    assert "new, old" in problem.say("zh") and several_models(FOLDER, ()) is None


def is_found(names: Collection[str], indexed: Mapping[str, Collection[str]] = {}) -> bool:
    files = {FOLDER / name: STATUS for name in names}
    weights = {path: status for path, status in files.items() if path.suffix in (".safetensors", ".bin")}

    def paths(suffix: str) -> set[Path]:
        return {FOLDER / name for name in indexed.get(suffix, ())}

    choice = choose_weights(weights, paths(next(iter(weights)).suffix), lambda path: {path.name})
    return is_found_by_transformers(FOLDER, files, choice, paths)


def test_transformers_finds_usual_names_alone() -> None:
    index = "model.safetensors.index.json"
    assert is_found(["model.safetensors"]) and is_found(["pytorch_model.bin"])
    assert is_found([*SHARDS, index], {".safetensors": SHARDS})
    assert not is_found(SHARDS) and not is_found(["pytorch_model.safetensors"]) and not is_found(["model.bin"])
    assert not is_found([*SHARDS, index], {".safetensors": ["model-00001-of-00006.safetensors"]})
    assert not is_found(["pytorch_model.bin", index], {".safetensors": SHARDS})


def test_an_adapter_in_the_folder_hides_the_weights_that_it_was_merged_into() -> None:
    assert not is_found(["model.safetensors", "adapter_config.json"])


def test_an_index_leads_into_subfolders_but_not_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = put(tmp_path / "tiny" / "weights" / "a.safetensors"), put(tmp_path / "b.safetensors")
    folder = tmp_path / "tiny"
    assert list(files_below(folder, [inside, folder / "weights" / "missing.safetensors"])) == [inside]
    assert not files_below(folder, [outside, folder / ".." / "b.safetensors", put(folder / "c.safetensors")])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("consolidated.safetensors", "original"),
        ("consolidated.00.pth", "original"),
        ("consolidated-00001-of-00002.safetensors", "original"),
        ("tf_model.h5", "tensorflow"),
        ("flax_model-00001-of-00002.msgpack", "flax"),
        ("decoder_model.onnx", "onnx"),
        ("model.safetensors", ""),
        ("notes.txt", ""),
    ],
)
def test_weights_of_other_programs_are_recognized_by_name(name: str, kind: str) -> None:
    assert foreign_format([FOLDER / "config.json", FOLDER / name]) == kind
