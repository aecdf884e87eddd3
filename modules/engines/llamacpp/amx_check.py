"""Multiply two small matrices with llama.cpp's AMX kernels, and compare the product.

`python amx_check.py FOLDER`, with the folder of libggml-cpu.so; the status is 0 if the product is right, and ABSENT if
the system or the library offers no AMX. It is a process of its own, with the standard library alone, because it may end
in a signal: of llama.cpp as it is, GCC 12.2 makes code at which the processor faults (scripts/llama-only.cmake mends
that).
"""

from __future__ import annotations

import array
import ctypes
import struct
import subprocess
import sys
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any, Literal

Trial = Literal["works", "absent", "fails"]
LIBRARIES = ("libggml-base.so", "libggml-cpu.so")
SECONDS = 10.0
"""What the check may take; it takes 0.05 s."""
ABSENT = 3
"""The status where there is no AMX to be tried."""
_THREADS = 2
_F32, _Q8_0 = 0, 8  # of ggml_type
_BLOCK = 32  # weights that share a scale in Q8_0
_COLUMNS, _ROWS, _TOKENS = 64, 32, 20
_LARGEST = 127  # in each row of the activations, so that they are quantized without a loss
_ONE = struct.pack("<e", 1.0)
_ROUNDING = 0.5  # between whole numbers
_CONTEXT_BYTES = 1 << 18  # of tensors without their data, and a graph
_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of linux/prctl.h


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


def try_amx(folder: Path) -> Trial:
    """Return how the AMX kernels of llama.cpp's libraries in `folder` do on this machine."""
    if not all((folder / name).is_file() for name in LIBRARIES):
        return "fails"  # another kind of build, of which nothing is known
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    try:
        child = subprocess.run(command, timeout=SECONDS, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return "fails"
    return "works" if child.returncode == 0 else "absent" if child.returncode == ABSENT else "fails"


def _multiply(folder: Path) -> int:
    """Return the status with which the process ends."""
    base, cpu = (ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in LIBRARIES)
    buffers = _function(cpu, "ggml_backend_cpu_buffer_type", c_void_p)(), _amx_buffers(base, cpu)
    if buffers[1] is None:
        return ABSENT
    new_context = _function(base, "ggml_init", c_void_p, _InitParams)
    new_tensor = _function(base, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64)
    allocate = _function(base, "ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, c_void_p, c_void_p)
    write = _function(base, "ggml_backend_tensor_set", None, c_void_p, c_char_p, c_size_t, c_size_t)
    read = _function(base, "ggml_backend_tensor_get", None, c_void_p, c_char_p, c_size_t, c_size_t)

    outer, inner = (new_context(_InitParams(_CONTEXT_BYTES, None, True)) for _ in buffers)
    weights = new_tensor(inner, _Q8_0, _COLUMNS, _ROWS)
    activations = new_tensor(outer, _F32, _COLUMNS, _TOKENS)
    product = _function(base, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p)(outer, weights, activations)
    graph = _function(base, "ggml_new_graph", c_void_p, c_void_p)(outer)
    _function(base, "ggml_build_forward_expand", None, c_void_p, c_void_p)(graph, product)
    for context, buffer in zip((outer, inner), buffers, strict=True):
        allocate(context, buffer)
    blocks = b"".join(_block(row, start) for row in range(_ROWS) for start in range(0, _COLUMNS, _BLOCK))
    write(weights, blocks, 0, len(blocks))
    floats = array.array("f", [_activation(token, column) for token in range(_TOKENS) for column in range(_COLUMNS)])
    write(activations, floats.tobytes(), 0, floats.itemsize * len(floats))

    backend = _function(cpu, "ggml_backend_cpu_init", c_void_p)()
    _function(cpu, "ggml_backend_cpu_set_n_threads", None, c_void_p, c_int)(backend, _THREADS)
    status = int(_function(base, "ggml_backend_graph_compute", c_int, c_void_p, c_void_p)(backend, graph))
    result = ctypes.create_string_buffer(4 * _TOKENS * _ROWS)
    read(product, result, 0, len(result))
    pairs = zip(array.array("f", result.raw), _right(), strict=True)
    return status or int(any(abs(number - right) > _ROUNDING for number, right in pairs))


def _amx_buffers(base: ctypes.CDLL, cpu: ctypes.CDLL) -> int | None:
    """Return the type of buffer whose weights AMX multiplies; None if the library has or permits none."""
    registry = _function(cpu, "ggml_backend_cpu_reg", c_void_p)()
    device = _function(base, "ggml_backend_reg_dev_get", c_void_p, c_void_p, c_size_t)(registry, 0)
    find = _function(base, "ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    name_of = _function(base, "ggml_backend_buft_name", c_char_p, c_void_p)
    types = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(device)
    number = 0
    while types and (kind := types[number]):
        if name_of(kind) == b"AMX":
            return int(kind)
        number += 1
    return None


def _weight(row: int, column: int) -> int:
    return (3 * row + column) % 11 - 5


def _activation(token: int, column: int) -> int:
    return _LARGEST if column % _BLOCK == 0 else (token + 5 * column) % 13 - 6


def _block(row: int, start: int) -> bytes:
    return _ONE + struct.pack(f"{_BLOCK}b", *(_weight(row, start + offset) for offset in range(_BLOCK)))


def _right() -> list[int]:
    """Return the product, rows of a token after each other."""
    return [
        sum(_weight(row, column) * _activation(token, column) for column in range(_COLUMNS))
        for token in range(_TOKENS)
        for row in range(_ROWS)
    ]


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)  # no core file of an expected crash
    sys.exit(_multiply(Path(sys.argv[1])))
