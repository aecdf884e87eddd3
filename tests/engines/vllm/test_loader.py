"""What the loader vLLM adds to a client of its server."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import Unsupported
from modules.core.events import Info
from modules.engines.vllm.headless import HeadlessEngine
from modules.engines.vllm.loader import refuse_loras, served_options
from modules.loaders.registry import LOADERS
from tests.engines.vllm.test_arguments import DEFAULTS


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
