"""The tables of GGUF tensor and file types."""

from __future__ import annotations

import pytest

from modules.formats.gguf_tensors import FILE_TYPES, TENSOR_TYPES


def test_the_tables_agree_with_the_installed_llama_cpp() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    import ctypes

    from llama_cpp import _ggml

    ggml = _ggml.libggml
    ggml.ggml_type_name.restype, ggml.ggml_type_size.restype = ctypes.c_char_p, ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for kind, (name, block, size) in TENSOR_TYPES.items():
        assert ggml.ggml_type_name(kind).decode().upper() == name
        assert (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) == (block, size)
    for kind, name in FILE_TYPES.items():
        if kind:
            assert getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}") == kind
