"""Error messages of the backends are mapped to known causes; the messages are those of the libraries."""

from __future__ import annotations

import pytest

from modules.core.worker_errors import UNNAMED
from modules.engines.failure_causes import cause

_COMPILATION = [
    ("OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.", "C++ compiler"),
    (
        "ModuleNotFoundError: Marlin torch.ops kernels are not properly installed. Error: Marlin fp16: CUDA_HOME "
        "environment variable is not set.",
        "nvcc",
    ),
    (
        "ModuleNotFoundError: Marlin torch.ops kernels are not properly installed. Error: ninja failed",
        "could not be compiled",
    ),
    ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", "build-essential"),
    ("main.c:5:10: fatal error: Python.h: No such file or directory", "python3-dev"),
    ("TritonMissing: Cannot find a working triton installation. Either the package is not installed", "triton-windows"),
    ("subprocess.CalledProcessError: Command '['where', 'cl']' returned non-zero exit status 1.", "cl.exe"),
    (
        "RuntimeError: Error building extension 'exllamav2_ext': nvcc fatal : Cannot find compiler 'cl.exe' in PATH",
        "Visual Studio",
    ),
]
_PYTORCH = [
    ("RuntimeError: No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "Update the driver"),
    ("AcceleratorError: CUDA error: no kernel image is available for execution on the device", "generation"),
    ("ImportError: flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c1", "Uninstall it"),
    ("ImportError: DLL load failed while importing exllamav2_ext: The specified procedure", "another PyTorch"),
    ("NameError: name 'exllamav2_ext' is not defined", "another PyTorch"),
]
_MEMORY = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total", "gpu-memory"),
    ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB.", "gpu-split"),
    ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "n-gpu-layers"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:121] cannot allocate memory", "there is not enough memory"),
]
_GPUS = [
    ("RuntimeError: FlashAttention only supports Ampere GPUs or newer.", "Turn on no_flash_attn"),
    (
        "ValueError: Quantized kernel selection does not support a device map spanning different GPU compute "
        "capabilities: cuda:0=8.6, cuda:1=7.5.",
        "CUDA_VISIBLE_DEVICES",
    ),
    ("ValueError: GPTQ Marlin requires CUDA tensors, got `cpu`.", "AutoGPTQ"),
    ("ValueError: packed layers are outside the GPUs: model.layers.9.mlp.up_proj", "AutoGPTQ"),
]
_EXLLAMAV2 = [
    ("RuntimeError: a and b have incompatible shapes", "4-bit GPTQ only"),
    ("RuntimeError: gate_proj is wrong shape", "4-bit GPTQ only"),
    ("ValueError:  ## Could not find lm_head.* in model", "it lacks lm_head.*:"),
    ("RuntimeError: I/O error reading tensor", "ASCII"),
]


def test_a_failure_on_a_gpu_has_a_known_cause(subtests: pytest.Subtests) -> None:
    for message, expected in [*_COMPILATION, *_PYTORCH, *_MEMORY, *_GPUS, *_EXLLAMAV2]:
        with subtests.test(message=message):
            texts = cause(message)
            assert expected in texts["en"] and set(texts) == set(UNNAMED) and texts["zh"] != UNNAMED["zh"]
