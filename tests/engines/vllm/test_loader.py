"""The loader vLLM starts a server, and is a client of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Info
from modules.core.paths import ROOT
from modules.engines.vllm.headless import HeadlessEngine
from modules.engines.vllm.loader import LOADER, refuse_loras, served_options
from modules.loaders.registry import LOADERS
from tests.engines.vllm.test_arguments import DEFAULTS
from tests.support import fake_vllm

# A worker: it loads the model with each of the options, and says what it has got.
WORKER = """
import json, sys
from pathlib import Path
from modules.engines.vllm import server_process
from modules.engines.vllm.loader import LOADER
server_process.POLL_SECONDS = 0.02
for options in json.loads(sys.argv[2]):
    reports = []
    engine = LOADER.load(Path(sys.argv[1]), options, reports.append)
    notes = [note.option for note in engine.info.notes]
    loras = getattr(engine.operations.get("apply_loras"), "__name__", "")
    facts = (type(engine).__name__, engine.info.context_length, engine.info.memory > 0, loras, notes)
    print(json.dumps([*facts, reports[0].stage, reports[0].commands]), flush=True)
"""


def test_its_client_has_every_option_of_the_loader_remote() -> None:
    options = served_options(Path("models/llama"), DEFAULTS | {"max_num_seqs": 8})
    assert options.keys() == set(LOADERS["Remote"].options)
    assert (options["server_model"], options["server_kind"], options["server_streams"]) == ("llama", "vllm", 8)


def test_without_enable_lora_a_lora_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unsupported, match="enable_lora"):
        refuse_loras([{"name": "cat", "path": "/loras/cat", "weight": 1.0}])
    assert refuse_loras([]) == [] and refuse_loras([{"name": "cat", "path": "", "weight": 0.0}]) == [0.0]


def test_a_machine_that_only_computes_names_the_one_to_use() -> None:
    engine = HeadlessEngine(Info(2048), "machine-0")
    with pytest.raises(Unsupported, match="machine-0"):
        engine.tokenize("text", {})
    with pytest.raises(Unsupported, match="machine-0"):
        engine.generate([1], {})
    with pytest.raises(Unsupported, match="machine-0"):
        engine.questions["count"](text="text")


def test_a_model_is_loaded_on_this_machine_and_for_another_one(tmp_path: Path) -> None:
    program, model = tmp_path / "vllm", tmp_path / "good"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake_vllm.__file__} "$@"\n')
    program.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 2048}')
    options = DEFAULTS | {"vllm_program": str(program)}
    first = options | {"nnodes": 2, "master_addr": "10.0.0.1", "tensor_parallel_size": 2}
    loads = [first, first | {"node_rank": 1}]
    command = [sys.executable, "-c", WORKER, str(model), json.dumps(loads)]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    serving, computing = map(json.loads, ended.stdout.splitlines())
    line = "./start.sh --loader vLLM --model good --tensor-parallel-size 2 --nnodes 2 --master-addr 10.0.0.1"
    assert serving[:4] == ["ServedEngine", 512, True, "refuse_loras"], "the context is that of the server"
    assert serving[4:] == [["nnodes", "tensor_parallel_size"], "machines", [f"{line} --node-rank 1"]]
    assert computing[:4] == ["HeadlessEngine", 2048, False, ""] and "node_rank" in computing[4]


def test_what_vllm_would_refuse_is_refused_before_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the address by which the others reach machine 0"):
        LOADER.load(tmp_path, DEFAULTS | {"nnodes": 2}, lambda _: pytest.fail("it was started"))
