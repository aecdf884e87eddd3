"""Choices of files in a repository: listing, preselection and destination."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.hub.errors import FileNotOnHub, IncompleteSet, NothingToDownload
from modules.hub.file_choices import (
    CODE_WARNING,
    ONLY_PICKLES_WARNING,
    PICKLE_WARNING,
    check_one_folder,
    destination,
    exclude_files,
    find_file,
    list_choices,
    preselected_gguf,
    preselected_projector,
    quantization,
    repository_kind,
    restrict_to_folder,
    select_choices,
    select_metadata,
)
from modules.hub.repository import RemoteFile, Repository

PLAIN = ["config.json", "tokenizer.json", "tokenizer.model", "README.md", ".gitattributes"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
LORA = ["adapter_config.json", "adapter_model.safetensors"]
STYLES = [f"style-{letter}/{name}" for letter in "ab" for name in LORA]
SPLIT = ["Q8_0/M-Q8_0-00001-of-00003.gguf", "Q8_0/M-Q8_0-00002-of-00003.gguf", "Q8_0/M-Q8_0-00003-of-00003.gguf"]


def repository(*paths: str, revision: str = "main", name: str = "user/model") -> Repository:
    """Return a repository whose files have ten bytes per character of their path."""
    return Repository(
        name, revision, "c" * 40, tuple(RemoteFile(path, 10 * len(path), git_oid="a" * 40) for path in paths)
    )


def paths(files: Sequence[RemoteFile]) -> set[str]:
    return {file.path for file in files}


SELECTIONS: dict[str, tuple[list[str], str, list[str]]] = {
    "safetensors and the same weights as pickles": (
        [*PLAIN, "model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.onnx", "a.gguf"],
        "model",
        [*PLAIN[:-1], "model.safetensors"],
    ),
    "shards": ([*PLAIN, *SHARDS], "model", [*PLAIN[:-1], *SHARDS]),
    "the original weights next to converted ones": (
        ["config.json", "model.safetensors", "consolidated.safetensors", "original/consolidated.00.pth"],
        "model",
        ["config.json", "model.safetensors"],
    ),
    "the original weights alone": (
        ["params.json", "consolidated.safetensors"], "model", ["params.json", "consolidated.safetensors"],
    ),
    "shards next to the original weights": (
        [*SHARDS, "consolidated-00001-of-00001.safetensors"], "model", SHARDS,
    ),
    "pickles only": ([*PLAIN, "pytorch_model.bin", "training_args.bin"], "model", PLAIN[:-1]),
    "a template": (["config.json", "chat_template.jinja", "vocab.txt", "qwen.tiktoken", "spiece.vocab"], "model",
                   ["config.json", "chat_template.jinja", "vocab.txt", "qwen.tiktoken", "spiece.vocab"]),
    "code": (["config.json", "modeling_x.py", "model.safetensors"], "model", ["config.json", "model.safetensors"]),
    "a LoRA": (["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"], "lora",
               ["adapter_config.json", "adapter_model.safetensors", "README.md"]),
    "a LoRA by its weights": (["adapter_model.bin"], "lora", []),
    "a model with a LoRA in a folder": (["model.safetensors", "lora/adapter_config.json"], "model",
                                       ["model.safetensors"]),
    "LoRAs in folders": (STYLES, "lora", STYLES),
    "a LoRA beside the model it was merged into": ([*LORA, "config.json", "model.safetensors"], "model",
                                                   ["config.json", "model.safetensors"]),
    "a LoRA beside the shards of its model": ([*LORA, "config.json", *SHARDS], "model", ["config.json", *SHARDS]),
    "a LoRA with the config of its base": ([*LORA, "config.json"], "lora", [*LORA, "config.json"]),
    "a LoRA with a value head": ([*LORA, "config.json", "value_head.safetensors"], "lora",
                                 [*LORA, "config.json", "value_head.safetensors"]),
    "a LoRA with leftovers of training": (
        [*LORA, "config.json", "optimizer.pt", "training_args.bin", "checkpoint-5/pytorch_model.bin"], "lora",
        [*LORA, "config.json"],
    ),
    "checkpoints of a LoRA": ([f"checkpoint-5/{name}" for name in LORA], "lora", [f"checkpoint-5/{n}" for n in LORA]),
    "a LoRA and GGUF files": ([*LORA, "m.Q4_K_M.gguf"], "lora", LORA),
    "GGUF files and LoRAs in folders": ([*STYLES, "m.Q4_K_M.gguf"], "gguf", []),
    "a LoRA in shards": (
        ["adapter_config.json", "adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"],
        "lora",
        ["adapter_config.json", "adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"],
    ),
    "a LoRA of MLX": (["adapter_config.json", "adapters.safetensors"], "lora",
                      ["adapter_config.json", "adapters.safetensors"]),
    "a LoRA for images": (["pytorch_lora_weights.safetensors"], "lora", ["pytorch_lora_weights.safetensors"]),
    "a ControlNet": (["control_lora_canny.safetensors"], "model", ["control_lora_canny.safetensors"]),
    "GGUF": (["README.md", "config.json", "m.Q4_K_M.gguf", "m.Q8_0.gguf", "mmproj-f16.gguf"], "gguf", []),
    "GGUF and pickles": (["pytorch_model.bin", "m.gguf"], "gguf", []),
    "uppercase names": (["CONFIG.JSON", "MODEL.SAFETENSORS", "OLD.BIN"], "model", ["CONFIG.JSON", "MODEL.SAFETENSORS"]),
    "an incomplete set of shards": (["config.json", SHARDS[0]], "model", ["config.json"]),
    "an empty repository": ([], "model", []),
}  # fmt: skip


def test_the_default_selection_depends_on_the_kind_of_repository(subtests: pytest.Subtests) -> None:
    for case in SELECTIONS:
        with subtests.test(case):
            paths_present, kind, preselected = SELECTIONS[case]
            listing = repository(*paths_present)
            assert repository_kind(listing) == kind
            choices = list_choices(listing)
            selected = {file.path for choice in choices if choice.preselected for file in choice.files}
            assert selected == set(preselected)
            assert {file.path for choice in choices for file in choice.files} == set(paths_present)
            if preselected:
                assert paths(select_choices(listing)) == set(preselected)
            else:
                with pytest.raises(NothingToDownload):
                    select_choices(listing)


def test_files_that_run_code_are_never_preselected_and_have_a_warning() -> None:
    choices = {
        choice.name: choice for choice in list_choices(repository("m.py", "a.bin", "b.pt", "c.ckpt", "m.safetensors"))
    }
    assert choices["m.py"].warning == CODE_WARNING and not choices["m.py"].preselected
    for name in ("a.bin", "b.pt", "c.ckpt"):
        choice = choices[name]
        assert (choice.group, choice.preselected, choice.warning) == ("pickle", False, PICKLE_WARNING)
    pickles_only = list_choices(repository("config.json", "pytorch_model.bin"))
    assert [choice.warning for choice in pickles_only] == [ONLY_PICKLES_WARNING, None]


def test_gguf_files_are_sorted_by_size_and_one_is_recommended() -> None:
    choices = list_choices(
        repository("mm.IQ2_XXS.longer.gguf", "m.Q8_0.gguf", "m.Q4_K_M.gguf", "mmproj-F16.gguf", "a.md")
    )
    assert [(choice.quantization, choice.group, choice.recommended) for choice in choices] == [
        ("Q8_0", "gguf", False),
        ("Q4_K_M", "gguf", True),
        ("IQ2_XXS", "gguf", False),
        ("F16", "mmproj", False),
        ("", "metadata", False),
    ]


def test_a_split_gguf_is_one_choice() -> None:
    (choice,) = list_choices(repository(*SPLIT))
    assert (choice.name, choice.quantization, choice.missing) == (SPLIT[0], "Q8_0", ())
    assert choice.size == sum(10 * len(path) for path in SPLIT)
    assert paths(select_choices(repository(*SPLIT), [SPLIT[0]])) == set(SPLIT)


@pytest.mark.parametrize("missing_index", [0, 1, 2])
def test_a_split_gguf_with_a_missing_part_is_refused(missing_index: int) -> None:
    incomplete = repository(*[path for number, path in enumerate(SPLIT) if number != missing_index])
    (choice,) = list_choices(incomplete)
    missing_name = SPLIT[missing_index].rpartition("/")[2]
    assert (choice.name, choice.missing, choice.preselected) == (SPLIT[0], (missing_name,), False)
    with pytest.raises(IncompleteSet, match=missing_name):
        select_choices(incomplete, [choice.name])
    with pytest.raises(IncompleteSet):
        find_file(incomplete, incomplete.files[0].path)


def test_split_files_of_the_same_name_in_two_folders_are_two_choices() -> None:
    assert len(list_choices(repository(*SPLIT, *[f"x/{path}" for path in SPLIT]))) == 2


def test_names_that_claim_very_many_parts_are_listed_quickly() -> None:
    started = time.monotonic()
    choices = list_choices(repository(*[f"m{number}-00001-of-99999.gguf" for number in range(5000)]))
    assert time.monotonic() - started < 5
    assert len(choices[0].missing) == 10 and not choices[0].recommended


QUANTIZATIONS = [
    ("Llama-3-8B.Q4_K_M.gguf", "Q4_K_M"),
    ("llama-3-8b-q5_k_s.gguf", "Q5_K_S"),
    ("M-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
    ("M-IQ4_NL.gguf", "IQ4_NL"),
    ("M-iq3_xxs.gguf", "IQ3_XXS"),
    ("M.Q4_0_4_4.gguf", "Q4_0_4_4"),
    ("M-Q8_0.gguf", "Q8_0"),
    ("M-Q6_K.gguf", "Q6_K"),
    ("M-TQ1_0.gguf", "TQ1_0"),
    ("M-bf16.gguf", "BF16"),
    ("M.fp16.gguf", "FP16"),
    ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
    ("BF16/M-00001-of-00002.gguf", "BF16"),
    ("Q2_K/M.Q3_K_L.gguf", "Q3_K_L"),
    ("model.gguf", ""),
    ("IQ4_XSmodel.gguf", ""),
    ("SF16.gguf", ""),
]


def test_the_quantization_is_read_from_the_name(subtests: pytest.Subtests) -> None:
    for path, name in QUANTIZATIONS:
        with subtests.test(path=path):
            assert quantization(path) == name


def test_the_named_choices_are_selected() -> None:
    listing = repository(*PLAIN, "pytorch_model.bin", "m.py")
    assert paths(select_choices(listing, ["pytorch_model.bin", "config.json", "config.json"])) == {
        "pytorch_model.bin",
        "config.json",
    }
    assert len(select_choices(listing, ["config.json", "config.json"])) == 1
    with pytest.raises(NothingToDownload):
        select_choices(listing, [])
    with pytest.raises(FileNotOnHub) as caught:
        select_choices(listing, ["confg.json"])
    assert caught.value.nearest[0] == "config.json"


def test_a_single_file_is_found_by_its_path_or_its_name() -> None:
    listing = repository("a/config.json", "b/config.json", "a/m.Q4_K_M.gguf", *SPLIT)
    assert paths(find_file(listing, "a/config.json")) == {"a/config.json"}
    assert paths(find_file(listing, "m.Q4_K_M.gguf")) == {"a/m.Q4_K_M.gguf"}
    assert paths(find_file(listing, "M-Q8_0-00002-of-00003.gguf")) == set(SPLIT)
    for name in ("config.json", "m.Q5_K_M.gguf", ""):
        with pytest.raises(FileNotOnHub):
            find_file(listing, name)


def test_the_error_for_a_missing_file_lists_similar_names() -> None:
    listing = repository("m.Q4_K_M.gguf", "m.Q5_K_M.gguf", "sub/m.Q8_0.gguf", "README.md")
    with pytest.raises(FileNotOnHub) as caught:
        find_file(listing, "m.q4km.gguf")
    assert caught.value.nearest[0] == "m.Q4_K_M.gguf" and len(caught.value.nearest) <= 3
    assert "m.Q4_K_M.gguf" in caught.value.say("zh")


def test_metadata_excludes_the_weights() -> None:
    assert paths(select_metadata(repository(*PLAIN, "model.safetensors", "m.gguf", "m.py"))) == set(PLAIN[:-1])
    with pytest.raises(NothingToDownload):
        select_metadata(repository("m.gguf"))


def test_a_pattern_excludes_files_as_in_the_original() -> None:
    files = repository("config.json", "onnx/model.json", "model.safetensors").files
    assert paths(exclude_files(files, "onnx/")) == {"config.json", "model.safetensors"}
    assert paths(exclude_files(files, r".*\.json")) == {"model.safetensors"}
    assert paths(exclude_files(files, "json")) == paths(files)
    with pytest.raises(OptionError):
        exclude_files(files, "[")
    with pytest.raises(NothingToDownload):
        exclude_files(files, "")


def test_a_repository_is_restricted_to_a_folder() -> None:
    restricted = restrict_to_folder(repository("a/config.json", "ab/x.json", "config.json"), "a")
    assert [file.path for file in restricted.files] == ["a/config.json"]
    assert restrict_to_folder(restricted, "") == restricted
    with pytest.raises(FileNotOnHub):
        restrict_to_folder(restricted, "nowhere")


DESTINATIONS = {
    "a model": (["config.json", "model.safetensors"], "models", "user_model", {"config.json": "config.json"}),
    "a LoRA": (["adapter_config.json", "adapter_model.safetensors"], "loras", "user_model", {}),
    "LoRAs in folders": (STYLES, "loras", "user_model", {STYLES[0]: STYLES[0]}),
    "a merged model with its LoRA": ([*LORA, "config.json", "model.safetensors"], "models", "user_model", {}),
    "one GGUF file": (["m.Q4_K_M.gguf"], "models", "", {"m.Q4_K_M.gguf": "m.Q4_K_M.gguf"}),
    "a GGUF file in a subfolder": (["sub/m.Q4_K_M.gguf"], "models", "", {"sub/m.Q4_K_M.gguf": "m.Q4_K_M.gguf"}),
    "two GGUF files": (["m.Q4_K_M.gguf", "m.Q8_0.gguf"], "models", "", {"m.Q8_0.gguf": "m.Q8_0.gguf"}),
    "two GGUF files of the same name": (["a/m.gguf", "b/M.gguf"], "models", "user_model", {"a/m.gguf": "a/m.gguf"}),
    "a split GGUF": (SPLIT, "models", "M-Q8_0", {SPLIT[1]: "M-Q8_0-00002-of-00003.gguf"}),
    "a split GGUF and another file": (
        [*SPLIT, "m.gguf"],
        "models",
        "user_model",
        {SPLIT[1]: SPLIT[1], "m.gguf": "m.gguf"},
    ),
    "a GGUF file with a vision projector": (
        ["m.gguf", "mmproj-F16.gguf"],
        "models",
        "user_model",
        {"mmproj-F16.gguf": "mmproj-F16.gguf"},
    ),
    "a GGUF file with its config.json": (["m.gguf", "config.json"], "models", "user_model", {}),
}


def test_the_destination_depends_on_the_selected_files(subtests: pytest.Subtests) -> None:
    for case in DESTINATIONS:
        with subtests.test(case):
            paths_present, root, folder, targets = DESTINATIONS[case]
            listing = repository(*paths_present)
            result = destination(listing, listing.files)
            assert (result.root, result.folder) == (root, folder)
            assert set(result.paths) == set(paths_present) and targets.items() <= result.paths.items()


def selected_root(present: Sequence[str], selected: Sequence[str]) -> str:
    listing = repository(*present)
    return destination(listing, [file for file in listing.files if file.path in selected]).root


def test_selected_files_go_where_they_can_be_used() -> None:
    merged = [*LORA, "config.json", "model.safetensors"]
    assert selected_root(merged, LORA) == "loras"
    assert selected_root(merged, ["config.json", "model.safetensors"]) == "models"
    assert selected_root(merged, ["config.json"]) == "models"
    with_gguf = [*LORA, "README.md", "m.Q4_K_M.gguf"]
    assert selected_root(with_gguf, LORA) == selected_root(with_gguf, ["README.md"]) == "loras"
    assert selected_root(with_gguf, ["m.Q4_K_M.gguf"]) == "models"


def test_a_gguf_model_and_a_lora_cannot_go_to_one_folder() -> None:
    listing = repository(*LORA, "m.Q4_K_M.gguf")
    check_one_folder(listing.files[:2])
    check_one_folder(listing.files[2:])
    with pytest.raises(Unsupported, match="one after the other"):
        check_one_folder(listing.files)


@pytest.mark.parametrize(
    ("revision", "folder"),
    [
        ("main", "user_model"),
        ("dev", "user_model_dev"),
        ("refs/pr/3", "user_model_refs_pr_3"),
        ("v1.", "user_model_v1"),
    ],
)
def test_the_folder_name_includes_the_branch(revision: str, folder: str) -> None:
    listing = repository("config.json", revision=revision)
    assert destination(listing, listing.files).folder == folder


def test_folder_names_are_at_most_200_characters_and_unique() -> None:
    names = {
        destination(listing, listing.files).folder
        for listing in (repository("a", name="u" * 96 + "/" + "m" * 96, revision="b" * 199 + digit) for digit in "12")
    }
    assert len(names) == 2 and all(len(name) <= 200 for name in names)


def test_one_vision_part_of_half_precision_is_selected_in_advance(subtests: pytest.Subtests) -> None:
    cases = [
        (["m.gguf"], None),
        (["m.gguf", "mmproj-model.gguf"], "mmproj-model.gguf"),
        (["m.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["m.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf"], None),
        (["m.gguf", "mmproj-a-F16.gguf", "mmproj-b-F16.gguf"], None),
    ]
    for names, expected in cases:
        with subtests.test(names=names):
            files = tuple(RemoteFile(name, 1, sha256="0" * 64) for name in names)
            chosen = preselected_projector(list_choices(Repository("user/model", "main", "0" * 40, files)))
            assert (chosen and chosen.name) == expected


def test_the_recommended_quantization_is_selected_in_advance_or_the_next_best(subtests: pytest.Subtests) -> None:
    cases = [
        (["m.Q2_K.gguf", "m.Q4_K_M.gguf", "m.Q8_0.gguf"], "m.Q4_K_M.gguf"),
        (["m.Q4_1.gguf", "m.Q8_0.gguf"], "m.Q4_1.gguf"),
        (["m.q8_0.gguf", "m.f16.gguf"], "m.q8_0.gguf"),
        (["anything.gguf"], "anything.gguf"),
        (["anything.gguf", "mmproj-m.f16.gguf"], "anything.gguf"),
        (["a.Q4_K_M.gguf", "b.Q4_K_M.gguf"], None),
        (["m.IQ1_S.gguf", "m.BF16.gguf"], None),
        (["m.Q4_K_M-00001-of-00002.gguf", "m.Q8_0.gguf"], "m.Q8_0.gguf"),
    ]
    for names, expected in cases:
        with subtests.test(names=names):
            files = tuple(RemoteFile(name, 1, sha256="0" * 64) for name in names)
            chosen = preselected_gguf(list_choices(Repository("user/model", "main", "0" * 40, files)))
            assert (chosen and chosen.name) == expected
