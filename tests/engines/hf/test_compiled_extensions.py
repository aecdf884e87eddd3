"""Compiled modules of installed packages are not used if they were built for another PyTorch."""

from __future__ import annotations

import importlib.metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import Environment
from modules.system import gpus

OLD = b"\x7fELF\0libcudart.so.12\0_ZN3c106detail14torchCheckFailEPKcS2_jRKSs\0"
NEW = b"\x7fELF\0libcudart.so.12\0_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIc\0"
WINDOWS = b"MZ\0cudart64_12.dll\0"


@pytest.mark.parametrize(
    ("content", "torch", "build", "fits"),
    [
        (OLD, "2.13.0", ("", ""), False),
        (OLD, "2.13.0+cu126", ("cuda", "12.6"), False),
        (OLD, "2.2.1+cu121", ("cuda", "12.1"), True),
        (NEW, "2.13.0", ("", ""), False),
        (NEW, "2.13.0", ("cuda", "12.6"), True),
        (NEW, "2.13.0+cu130", ("cuda", "13.0"), False),
        (NEW, "2.13.0+rocm6.4", ("hip", "6.4.43482"), False),
        (WINDOWS, "2.13.0", ("cuda", "13.0"), False),
        (WINDOWS, "2.13.0+cu128", ("cuda", "12.8"), True),
        (b"", "2.13.0", ("cuda", "12.8"), False),
    ],
)
def test_a_file_shows_what_it_was_built_for(
    content: bytes, torch: str, build: tuple[str, str], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: torch)
    monkeypatch.setattr(gpus, "torch_build", lambda: build)
    file = tmp_path / f"made_for_another{EXTENSION_SUFFIXES[0]}"
    file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert compiled_extensions.matches_torch(file) == compiled_extensions.seems_usable("made_for_another") == fits


def test_a_package_that_is_not_compiled_only_has_to_be_installed() -> None:
    assert compiled_extensions.seems_usable("json") and not compiled_extensions.seems_usable("no_such_package")


def test_a_package_that_fails_to_import_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_to_import.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    before = Environment(packages=frozenset({"fails_to_import", "awq_ext"}))
    assert compiled_extensions.keep_importable(before, ("fails_to_import", "json")).packages == {"json", "awq_ext"}
