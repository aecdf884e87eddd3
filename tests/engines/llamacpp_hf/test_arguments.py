"""llamacpp_HF's options become calls: none is ignored silently, and those of llama.cpp equal the other loader's."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.llamacpp.arguments import Build
from modules.engines.llamacpp.arguments import arguments as llamacpp_arguments
from modules.engines.llamacpp_hf.arguments import BATCH, CONTEXT, arguments
from modules.engines.llamacpp_hf.notes import notes
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Value
from tests.conftest import LLAMA
from tests.engines.llamacpp.test_arguments import BUILDS, CPU_BUILD, changed
from tests.formats.test_tokenizer_files import with_tokenizer

KEYS = LOADERS["llamacpp_HF"].options
DEFAULTS = {key: OPTIONS[key].default for key in KEYS}
PATH = Path("/models/model.gguf")


def calls(path: Path = PATH, build: Build = CPU_BUILD, **options: Value) -> dict[str, Any]:
    return arguments(path, DEFAULTS | options, build)


def noted(path: Path = PATH, build: Build = CPU_BUILD, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(path, DEFAULTS | options, build)}


def test_every_option_changes_the_calls_or_has_a_note(tmp_path: Path, subtests: pytest.Subtests) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    complete = with_tokenizer(tmp_path / "complete")
    paths = {"own tokenizer": bare / "model.gguf", "tokenizer files": complete / "model.gguf"}
    builds = zip(("cpu", "gpu", "amx"), BUILDS, strict=True)
    for (tokenizer, path), (name, build) in product(paths.items(), builds):
        unchanged = calls(path, build)
        for key in KEYS:
            with subtests.test(tokenizer=tokenizer, build=name, option=key):
                options = {key: changed(OPTIONS[key])}
                assert calls(path, build, **options) != unchanged or key in noted(path, build, **options)


@pytest.mark.parametrize("build", BUILDS[:2], ids=["cpu", "gpu"])
def test_default_options_have_no_notes(build: Build) -> None:
    assert not noted(build=build)


def test_every_note_names_an_option_of_this_loader_in_both_languages(subtests: pytest.Subtests) -> None:
    for key in KEYS:
        with subtests.test(option=key):
            for build in BUILDS:
                for note in notes(PATH, DEFAULTS | {key: changed(OPTIONS[key])}, build):
                    assert note.option in KEYS
                    assert set(note.text) == {"zh", "en"}


@pytest.mark.works("gpu", loader="llamacpp_HF")
@pytest.mark.parametrize("build", BUILDS, ids=["cpu", "gpu", "amx"])
def test_calls_of_llama_cpp_are_those_of_the_llama_cpp_loader(build: Build) -> None:
    for key in set(KEYS) & set(LLAMA.options):
        options = {key: changed(OPTIONS[key])}
        theirs = {option: OPTIONS[option].default for option in LLAMA.options} | options
        assert calls(build=build, **options) == llamacpp_arguments(PATH, theirs | {"parallel": 1}, build)


def test_cfg_cache_adds_a_second_sequence_of_the_same_length() -> None:
    made = calls(n_ctx=2048, cfg_cache=True)[CONTEXT]
    assert (made["n_seq_max"], made["n_ctx"], made["kv_unified"]) == (2, 4096, False)
    assert calls(cfg_cache=True)[CONTEXT]["n_ctx"] == 0, "twice the context of the model, which only the library knows"


def test_only_logits_all_requests_logits_of_every_token() -> None:
    assert BATCH in calls(logits_all=True)
    assert BATCH not in calls()


def test_the_tokenizer_is_loaded_from_the_folder_of_its_files(tmp_path: Path) -> None:
    own = with_tokenizer(tmp_path / "own") / "model.gguf"
    assert TOKENIZER not in calls(tmp_path / "model.gguf")
    assert calls(own)[TOKENIZER]["pretrained_model_name_or_path"] == str(own.parent)


def test_remote_code_of_a_tokenizer_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    path = with_tokenizer(tmp_path) / "model.gguf"
    assert calls(path)[TOKENIZER]["trust_remote_code"] is False
    assert calls(path, trust_remote_code=True)[TOKENIZER]["trust_remote_code"] is True
    (tmp_path / "tok.py").write_text("")
    assert "tok.py (sha256 e3b0c44298fc)" in noted(path, trust_remote_code=True)["trust_remote_code"]


def test_explain_needs_neither_torch_nor_a_loaded_model(smollm2: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from modules.engines.llamacpp_hf.loader import LOADER;"
        "explained = LOADER.explain(Path(sys.argv[1]), json.loads(sys.argv[2]));"
        "print('torch' in sys.modules, 'transformers' in sys.modules, *explained['calls'])"
    )
    command = [sys.executable, "-c", program, str(smollm2), json.dumps(DEFAULTS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.split()[:3] == ["False", "False", "llama_model_load_from_file"], run.stderr
