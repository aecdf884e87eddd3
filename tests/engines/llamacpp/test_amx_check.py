"""AMX kernels are used where they work: a build is tried in a process of its own, and ours works."""

from __future__ import annotations

import ctypes
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import llama_cpp.llama_cpp as native
import pytest

from modules.engines.llamacpp import amx_check
from modules.engines.llamacpp.amx_check import try_amx
from modules.engines.llamacpp.library import installed_build
from modules.setup.llama_cpp_build import ONLY_LLAMA
from tests.support.llama_library import run_python

FOLDER = Path(native.__file__).parent / "lib"
HAS_AMX = b"AMX_INT8 = 1" in native.llama_print_system_info()
_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA = 158, 0x1023, 18  # of x86-64's Linux

_WRONG_PRODUCT = """
import sys
from pathlib import Path
from modules.engines.llamacpp import amx_check
right = amx_check._right()
amx_check._right = lambda: [*right[:-1], right[-1] + 1]
print(amx_check._multiply(Path(sys.stdin.read())))
"""

_NOT_OFFERED = """
import sys
from pathlib import Path
from modules.engines.llamacpp import amx_check
amx_check._amx_buffers = lambda base, cpu: None
print(amx_check._multiply(Path(sys.stdin.read())))
"""

needs_amx = pytest.mark.skipif(
    not HAS_AMX or ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA) != 0,
    reason="the processor has no AMX, or the system does not permit it",
)


@needs_amx
def test_the_kernels_that_we_compile_work_on_this_machine() -> None:
    assert try_amx(FOLDER) == "works" and installed_build().repacks


@needs_amx
def test_a_wrong_product_is_noticed() -> None:
    assert run_python(_WRONG_PRODUCT, str(FOLDER)).stdout == "1\n"


@needs_amx
def test_where_the_system_permits_no_amx_nothing_can_fail() -> None:
    """A library without AMX is said to be one: its other repacked weights can be used."""
    assert run_python(_NOT_OFFERED, str(FOLDER)).stdout == f"{amx_check.ABSENT}\n"


@pytest.mark.parametrize("content", [None, b"not a library"], ids=["absent", "broken"])
def test_libraries_that_cannot_be_tried_do_not_work(tmp_path: Path, content: bytes | None) -> None:
    for name in amx_check.LIBRARIES if content else ():
        (tmp_path / name).write_bytes(content or b"")
    assert try_amx(tmp_path) == "fails"


def test_a_crash_of_the_trial_is_a_build_that_does_not_work(tmp_path: Path) -> None:
    source = "static int crash() { return *(volatile int *)0; } int crashed = crash();"
    for name in amx_check.LIBRARIES:
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-o", str(tmp_path / name), "-"]
        subprocess.run(command, input=source, check=True, text=True)
    assert try_amx(tmp_path) == "fails"


def test_the_mends_are_of_the_installed_version() -> None:
    """The build of another version fails if what they mend has changed; this asks whether it still needs them."""
    mended = re.search(r"llama-cpp-python (\d+\.\d+\.\d+)", ONLY_LLAMA.read_text(encoding="utf-8"))
    assert mended and version("llama-cpp-python") == mended[1], "check whether llama.cpp still needs them"
