"""AMX kernels are used where they work: a build is tried in a process of its own, and ours works."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import llama_cpp.llama_cpp as native
import pytest

from modules.engines.llamacpp import amx_check
from modules.engines.llamacpp.amx_check import amx_works
from modules.engines.llamacpp.library import installed_build
from modules.setup.llama_cpp_build import TILE_CONFIG
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
print("as expected" if amx_check._multiplies(Path(sys.stdin.read())) else "differs")
"""

_CONFIGURE = """
#include <immintrin.h>
struct Config { unsigned char palette, row, reserved[14]; unsigned short bytes[16]; unsigned char rows[16]; };
void configure() {
    alignas(64) Config config = {};
    config.rows[7] = 113;
    _tile_loadconfig(&config);
}
"""

needs_amx = pytest.mark.skipif(
    not HAS_AMX or ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA) != 0,
    reason="the processor has no AMX, or the system does not permit it",
)


def assembled(*arguments: str) -> str:
    """Return the assembler code of `_CONFIGURE`."""
    command = ["g++", "-O2", "-mamx-tile", "-x", "c++", *arguments, "-S", "-o", "-", "-"]
    return subprocess.run(command, input=_CONFIGURE, capture_output=True, text=True, check=True).stdout


@needs_amx
def test_the_kernels_that_we_compile_work_on_this_machine() -> None:
    assert amx_works(FOLDER) and installed_build().repacks


@needs_amx
def test_a_wrong_product_is_noticed() -> None:
    assert run_python(_WRONG_PRODUCT, str(FOLDER)).stdout == "differs\n"


@pytest.mark.parametrize("content", [None, b"not a library"], ids=["absent", "broken"])
def test_libraries_that_cannot_be_tried_do_not_work(tmp_path: Path, content: bytes | None) -> None:
    for name in amx_check.LIBRARIES if content else ():
        (tmp_path / name).write_bytes(content or b"")
    assert not amx_works(tmp_path)


def test_a_crash_of_the_trial_is_a_build_that_does_not_work(tmp_path: Path) -> None:
    source = "static int crash() { return *(volatile int *)0; } int crashed = crash();"
    for name in amx_check.LIBRARIES:
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-o", str(tmp_path / name), "-"]
        subprocess.run(command, input=source, check=True, text=True)
    assert not amx_works(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="g++ is another compiler elsewhere")
def test_our_header_has_the_whole_tile_configuration_written() -> None:
    assert "$113" in assembled("-include", str(TILE_CONFIG))


def test_the_header_is_still_needed() -> None:
    """Once GCC 13.3 is the oldest compiler in use, or llama.cpp keeps the configuration elsewhere, it can go."""
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout
    needed = tuple(map(int, compiler.split("."))) < (13, 3)
    assert ("$113" not in assembled()) is needed, "check which compilers still need scripts/amx_tile_config.h"
    match = re.search(r"llama-cpp-python\s+(?:\*\s+)?(\d+\.\d+\.\d+)", TILE_CONFIG.read_text(encoding="utf-8"))
    assert match and version("llama-cpp-python") == match[1], "check whether llama.cpp still needs the header"
