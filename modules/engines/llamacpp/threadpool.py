"""Bind the compute threads of llama.cpp contexts to one CPU each, through ggml's thread pools.

llama-cpp-python 0.3.36 has no bindings for them. Source: ggml.h, ggml-cpu.c and llama.h of the llama.cpp it contains.
Compiled with OpenMP, a pool has no threads of its own: whenever a graph is computed, every thread of the OpenMP team
takes the CPU mask of its number. A team that is restarted because another number of threads is needed is bound too.
A single thread is no team, and takes no mask. Exchanging the pools and the number of threads takes some microseconds.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as native

from modules.core.events import Json
from modules.engines.llamacpp.arguments import MAX_CPUS, bound_cpus, thread_counts
from modules.system import cpu_memory

_FUNCTIONS = ("ggml_threadpool_params_init", "ggml_threadpool_new", "llama_attach_threadpool")
"""Where the CPU backend was compiled as a plug-in (GGML_BACKEND_DL), its functions are missing."""


class _ThreadpoolParams(ctypes.Structure):
    """`ggml_threadpool_params`."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ComputeThreads:
    """The threads that compute for `context`, which was created with `calls`, and for `others` between its steps."""

    def __init__(self, context: object, calls: Mapping[str, Json], *others: object) -> None:
        self._contexts = (context, *others)
        self._calls = calls
        self._fast_cores = cpu_memory.fast_cores()
        self._pools: dict[tuple[int, ...], object] = {}  # by the CPUs of their threads; llama.cpp does not free them

    def bind(self, cores: list[list[int]], workers: int = 1) -> list[list[int]]:
        """Bind all threads from the next `llama_decode` on; `cores` lists the logical CPUs of every core.

        If several `workers` share the cores of this machine, these are a part of them, and there are no more threads
        than they have room for. Return the CPUs of the threads for decoding and of those for prefill; an empty list if
        they stay unbound. To be called between two steps by the thread that decodes. From then on that thread is bound
        too, and so are threads that it starts later.
        """
        counts = thread_counts(self._calls, cores, workers)
        decode_cpus, prefill_cpus = bound_cpus(self._calls, cores, counts, self._fast_cores if workers == 1 else 1)
        for context in self._contexts:
            native.llama_set_n_threads(context, *counts)
        if not decode_cpus or not all(hasattr(native._lib, name) for name in _FUNCTIONS):
            return []
        attach = _function("llama_attach_threadpool", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        pools = (self._pool(decode_cpus), self._pool(prefill_cpus))
        for context in self._contexts:
            attach(context, *pools)
        if 1 in counts:
            os.sched_setaffinity(0, decode_cpus[:1])
        return [decode_cpus, prefill_cpus]

    def _pool(self, cpus: list[int]) -> object:
        pool = self._pools.get(tuple(cpus)) or _new_threadpool(cpus)
        self._pools[tuple(cpus)] = pool
        return pool


def _new_threadpool(cpus: Sequence[int]) -> object:
    """Create a pool with one thread per CPU of `cpus`, each bound to its CPU."""
    params = _ThreadpoolParams()
    _function("ggml_threadpool_params_init", None, ctypes.POINTER(_ThreadpoolParams), ctypes.c_int)(params, len(cpus))
    for cpu in cpus:
        params.cpumask[cpu] = True
    params.strict_cpu = True  # one CPU per thread instead of the whole mask for all
    new = _function("ggml_threadpool_new", ctypes.c_void_p, ctypes.POINTER(_ThreadpoolParams))
    return ctypes.c_void_p(new(params))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of libllama, or of the libraries it was linked with, with its C types set."""
    function = getattr(native._lib, name)
    function.restype, function.argtypes = result, arguments
    return function
