"""A process may open as many files as it needs, though not more than the system allows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from modules.core.paths import ROOT

PROGRAM = """
import json, resource, sys
from modules.system.open_files import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(json.dumps([allow_open_files(int(sys.argv[3])), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_is_raised_as_far_as_the_system_allows_and_never_lowered(subtests: pytest.Subtests) -> None:
    for soft, hard, wanted, limit in ((64, 512, 256, 256), (64, 128, 256, 128), (300, 512, 256, 300)):
        with subtests.test(soft=soft, hard=hard):
            command = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(wanted)]
            result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            returned, present = json.loads(result.stdout)
            assert returned == present == limit
