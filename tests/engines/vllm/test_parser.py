"""The flags that options become are those of vLLM's own parser, with the values that the options have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from modules.options.option import Value
from tests.engines.vllm.test_arguments import GIB, GPUS, VALUES, flags
from tests.support import vllm_parser

EXPECTED: dict[str, dict[str, Value]] = {
    "kv_cache_gib": {"kv_cache_memory_bytes": GIB // 2},
    "engine_args": {"seed": 3, "served_model_name": ["a b"]},
    "node_rank": {"node_rank": 1, "headless": True},
    "trust_remote_code": {"trust_remote_code": True},
}
"""What vLLM reads where it is not the option's key and value."""


@pytest.mark.usefixtures("backend")
def test_vllm_reads_every_flag_as_the_option_says(tmp_path: Path, vllm_python: str, subtests: pytest.Subtests) -> None:
    lines = {key: flags(tmp_path, GPUS, **options) for key, (options, _) in VALUES.items()}
    run = subprocess.run(
        [vllm_python, vllm_parser.__file__],
        input=json.dumps(list(lines.values())),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    for key, read in zip(lines, json.loads(run.stdout.splitlines()[-1]), strict=True):
        with subtests.test(key):
            assert isinstance(read, dict), read
            expected = EXPECTED.get(key, {key: VALUES[key][0][key]})
            assert {name: read.get(name) for name in expected} == expected
