"""ExLlamaV2's attention, put right where it is wrong. Of its LoRAs: tests/test_exllamav2_standin.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from modules.process import ROOT
from tests.exl2_folder import with_standin
from tests.test_exllamav2_standin import needs_exllamav2

FLOAT16 = 0.001
OURS = ("fused", "step by step")
Shares = dict[str, dict[str, float | None]]


@pytest.fixture(scope="module")
def off() -> Shares:
    command = [sys.executable, "-m", "tests.exllamav2_attention"]
    environment = with_standin(flash=False)
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    found: Shares = json.loads(told.stdout.splitlines()[-1])
    return found


@needs_exllamav2
@pytest.mark.parametrize("way", OURS)
def test_every_token_sees_what_it_should_and_no_number_is_lost(off: Shares, way: str) -> None:
    wrong = {case: share for case, share in off[way].items() if share is None or share > FLOAT16}
    assert len(off[way]) == 10 and not wrong


@needs_exllamav2
def test_the_package_still_needs_it(off: Shares) -> None:
    """Of 0.3.2: once these are right, `look_back` of exllamav2_mended can go as far as they are concerned."""
    packages = off["exllamav2 0.3.2"]
    assert packages["large numbers"] is None, "scores beyond 16 bits"
    for case in ("a prompt longer than its window", "a prompt after others with a window", "a cap and a window"):
        assert (packages[case] or 0) > 0.5, case
    assert (packages["a prompt"] or 1) < FLOAT16, "the measure is right"
