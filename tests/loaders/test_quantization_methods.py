"""Quantization methods: none of the installed transformers is unknown, and what is missing for one is named."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from modules.loaders import quantization_methods
from modules.loaders.quantization_methods import METHODS, missing_for_method
from modules.loaders.registry import LOADERS

UNREADABLE = {"gguf", "nvfp4"}
"""The loaders of GGUF files read the one, and transformers does not read finished weights of the other."""


def test_every_method_of_the_installed_transformers_is_known() -> None:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "quantizers" / "auto.py").read_text(encoding="utf-8")
    tables = [node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    mapping = next(table for table in tables if isinstance(table, ast.Dict))
    names = {str(ast.literal_eval(key)).removesuffix("_4bit").removesuffix("_8bit") for key in mapping.keys if key}
    formats = {name for loader in LOADERS.values() for name in loader.formats}
    assert names - formats - UNREADABLE == set(METHODS)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization_methods, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(quantization_methods, "is_installed", lambda package: False)


def test_a_missing_package_is_named_with_its_command(gpu: None) -> None:
    for name, method in METHODS.items():
        words = missing_for_method(name)
        assert (words is None) == (not method.packages)
        for text in (words or {}).values():
            assert name in text and all(package in text for package in method.packages) and method.install in text


def test_with_its_packages_a_method_needs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization_methods, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(quantization_methods, "is_installed", lambda package: True)
    assert not any(map(missing_for_method, METHODS))


def test_a_method_for_gpus_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization_methods, "has_nvidia_gpu", lambda: False)
    words = missing_for_method("vptq")
    assert words is not None and "needs an NVIDIA GPU" in words["en"] and "NVIDIA" in words["zh"]
    assert missing_for_method("fp8") is None


def test_an_unknown_method_is_refused_unless_the_model_brings_its_code() -> None:
    words = missing_for_method("modelopt")
    assert words is not None and "'modelopt'" in words["en"] and "GGUF" in words["zh"]
    assert missing_for_method("modelopt", has_own_code=True) is None
