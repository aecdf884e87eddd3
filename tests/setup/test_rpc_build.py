"""The build of the RPC backend, from a small source of the same layout, by the real pip and compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.loaders.overlay import Overlay
from modules.setup.install import describe
from modules.setup.overlay_installer import Installation, OverlayInstaller
from tests.support.echo_plans import wait_until
from tests.support.package_index import PackageIndex

GGML = "vendor/llama.cpp/ggml"
SOURCES = {
    f"{GGML}/include/ggml-base.h": 'extern "C" int base_version();',
    f"{GGML}/src/ggml-impl.h": '#include "ggml-base.h"',
    f"{GGML}/src/ggml-rpc/transport.h": "int transport();",
    f"{GGML}/src/ggml-rpc/transport.cpp": '#include "transport.h"\nint transport() { return 2; }',
    f"{GGML}/src/ggml-rpc/ggml-rpc.cpp": '#include "ggml-impl.h"\n#include "transport.h"\n'
    "#ifndef GGML_BACKEND_DL\n#error a library of its own\n#endif\n"
    'extern "C" int answer() { return 40 + base_version() * transport(); }',
    f"{GGML}/src/ggml-cuda/unneeded.cu": "not unpacked",
}


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """An overlay beside a llama.cpp that consists of the library with which the backend is linked."""
    library = tmp_path / "overlays" / "base" / "llama_cpp" / "lib"
    library.mkdir(parents=True)
    (tmp_path / "base.c").write_text("int base_version() { return 1; }")
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libggml-base.so.0", str(tmp_path / "base.c"), "-o"]
    subprocess.run([*command, str(library / "libggml-base.so.0")], check=True)
    (tmp_path / "requirements-base.txt").write_text("another==1.0\ncompiled==1.0\n")
    return Overlay("rpc", 1, tmp_path, compiled="compiled", title="llama.cpp RPC", extends="base")


@pytest.fixture
def overlays() -> Iterator[OverlayInstaller]:
    installer = OverlayInstaller()
    yield installer
    installer.close()


def install(overlays: OverlayInstaller, overlay: Overlay) -> Installation:
    overlays.start(overlay)
    wait_until(lambda: not overlays.status(overlay).in_progress, 110)
    return overlays.status(overlay)


def answer_of(library: Path) -> int:
    """Return the result of the library's function, in a process without another library of its base's name."""
    program = f"import ctypes; print(ctypes.CDLL({str(library)!r}).answer())"
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)


def test_the_backend_is_linked_with_the_installed_library(
    overlays: OverlayInstaller, overlay: Overlay, package_index: PackageIndex
) -> None:
    package_index.add_compiled(1, {**SOURCES, f"{GGML}/src/ggml-rpc/transport.h": "broken"})
    failed = install(overlays, overlay)
    assert failed.error is not None and "the compiler reported an error" in failed.error.say("en")
    assert "broken" in failed.error.say("zh") and not overlay.is_installed
    package_index.add_compiled(1, SOURCES)
    assert install(overlays, overlay) == Installation("installed") and overlay.is_installed
    assert answer_of(overlay.folder / "libggml-rpc.so") == 42
    assert not package_index.builds(), "llama.cpp itself is not compiled"
    overlay.requirements.write_text("another==1.0\ncompiled==1.1\n")
    assert not overlay.is_installed, "another version of llama.cpp needs another backend"


def test_without_a_compiler_or_llama_cpp_the_reason_is_said(
    overlays: OverlayInstaller, overlay: Overlay, package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    (overlay.folder.parent / "base" / "llama_cpp" / "lib" / "libggml-base.so.0").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    absent = install(overlays, overlay)
    assert absent.error is not None and "llama.cpp is not installed" in absent.error.say("en")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    failed = install(overlays, overlay)
    assert failed.error is not None and "no C++ compiler" in failed.error.say("en")


def test_progress_counts_the_steps_of_the_compiler(overlay: Overlay) -> None:
    status = Installation("installing", 1, 3, phase="compiling")
    assert describe(status, overlay, "en") == "Compiling llama.cpp RPC: 1 of 3"
    assert describe(status, overlay, "zh") == "正在编译 llama.cpp RPC：1/3"
