"""The memory estimate of GPTQ and AWQ folders with the Transformers loader, which uses the kernels of gptqmodel."""

from __future__ import annotations

from dataclasses import replace

from tests.engines.hf.test_memory_prequantized import GIB, LLAMA, memory, needs, options


def test_a_cpu_computes_in_32_bits_unless_bf16_is_set() -> None:
    def totals(gpus: tuple[int, ...] = (), **form: object) -> tuple[int, int]:
        estimates = needs("Transformers", gpus, **form)
        return sum(estimate.weights for estimate in estimates), sum(estimate.cache for estimate in estimates)

    float32, bfloat16 = totals(), totals(bf16=True)
    assert bfloat16 == totals((24 * GIB,)) == totals((24 * GIB,), bf16=True) == (4 * GIB + GIB // 2, float32[1] // 2)
    assert float32 == totals(bf16=True, cpu=True) == totals((24 * GIB,), cpu=True) == (5 * GIB, 2 * bfloat16[1])


def test_unpacking_a_layer_counts_if_gptqmodel_has_no_cpu_kernel() -> None:
    def compute(bits: int, gpus: tuple[int, ...] = ()) -> int:
        shape = replace(LLAMA, sizes=replace(LLAMA.sizes, packed_bytes=bits * GIB))
        return memory("Transformers").placed(shape, options("Transformers"), gpus)[-1].compute

    assert compute(8) == compute(3) == compute(4) + 14 * LLAMA.sizes.largest_packed
    assert compute(8, (24 * GIB,)) == compute(4, (24 * GIB,))
