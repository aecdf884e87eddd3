"""Bind the compute threads of a llama.cpp context, each to one CPU, through ggml's thread pools.

llama-cpp-python 0.3.36 has no bindings for them. Source: ggml.h, ggml-cpu.c and llama.h of the llama.cpp it contains.
Compiled with OpenMP, a pool has no threads of its own: whenever a graph is computed, each thread of the OpenMP team
takes the mask of its number. A team that is started anew, because another number of threads is needed, is bound too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as native

from modules.core.events import Json
from modules.engines.llamacpp.arguments import MAX_CPUS, bound_cpus

_FUNCTIONS = ("ggml_threadpool_params_init", "ggml_threadpool_new", "llama_attach_threadpool")
"""Those of the CPU's backend cannot be reached where it was compiled as a plug-in (GGML_BACKEND_DL)."""


class _Params(ctypes.Structure):
    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ComputeThreads:
    """The threads that compute for `context`, which was made with `calls`."""

    def __init__(self, context: object, calls: Mapping[str, Json]) -> None:
        self._context = context
        self._calls = calls
        self._pools: list[object] = []  # llama.cpp does not free them

    def bind(self, cores: list[list[int]]) -> list[list[int]]:
        """Bind all threads from the next `llama_decode` on; `cores` holds the logical CPUs of each core.

        Return the CPUs of the threads that decode and of those that read prompts; an empty list if they stay unbound.
        To be called between two steps by the thread that decodes. That thread is bound too, from then on, and so is
        whatever it starts later.
        """
        decoding, reading = bound_cpus(self._calls, cores)
        if not decoding or not all(hasattr(native._lib, name) for name in _FUNCTIONS):
            return []
        pool = _threadpool(decoding)
        self._pools = [pool, pool if reading == decoding else _threadpool(reading)]
        arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        _function("llama_attach_threadpool", None, *arguments)(self._context, *self._pools)
        return [decoding, reading]


def _threadpool(cpus: Sequence[int]) -> object:
    """A pool of as many threads as `cpus`, each of which may run on one of these CPUs alone."""
    params = _Params()
    _function("ggml_threadpool_params_init", None, ctypes.POINTER(_Params), ctypes.c_int)(params, len(cpus))
    for cpu in cpus:
        params.cpumask[cpu] = True
    params.strict_cpu = True  # one CPU for each thread, not the whole mask for all
    return ctypes.c_void_p(_function("ggml_threadpool_new", ctypes.c_void_p, ctypes.POINTER(_Params))(params))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of libllama or of the libraries it was linked with."""
    found = getattr(native._lib, name)
    found.restype, found.argtypes = result, arguments
    return found
