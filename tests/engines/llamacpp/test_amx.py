"""Whether AMX is used is told by the installed library and by this machine, each time anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.engines.llamacpp import amx
from modules.engines.llamacpp.amx import uses_amx
from modules.engines.llamacpp.amx_check import LIBRARIES
from modules.system import cpu_memory


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the installed library, on a machine with AMX on which every kernel works."""
    (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(amx, "OVERLAY", tmp_path)
    monkeypatch.setattr(amx, "try_amx", lambda _folder: "works")
    monkeypatch.setattr(cpu_memory, "has_amx", lambda: True)
    return tmp_path / "llama_cpp" / "lib" / LIBRARIES[-1]


def test_a_library_with_amx_uses_it_and_one_without_does_not(library: Path) -> None:
    assert not uses_amx(), "nothing is installed"
    library.write_bytes(b"other kernels")
    assert not uses_amx()
    library.write_bytes(b"%s: amx repack tensor %s")
    assert uses_amx()


def test_neither_another_processor_nor_kernels_that_fail_use_it(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.write_bytes(b"%s: amx repack tensor %s of type %s")
    with monkeypatch.context() as patch:
        patch.setattr(cpu_memory, "has_amx", lambda: False)
        assert not uses_amx()
    for trial in ("absent", "fails"):
        library.write_bytes(b"amx repack tensor" + trial.encode())
        monkeypatch.setattr(amx, "try_amx", lambda _folder, trial=trial: trial)
        assert not uses_amx()
