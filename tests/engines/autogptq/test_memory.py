"""The memory estimate of AutoGPTQ."""

from __future__ import annotations

from tests.engines.hf.test_memory_prequantized import GIB, LLAMA, memory, needs, options


def test_disk_alone_moves_nothing_off_the_first_gpu() -> None:
    """A load offloads nothing, either, unless memory is limited or auto_devices is on."""
    assert needs("AutoGPTQ", (3 * GIB,), disk=True) == needs("AutoGPTQ", (3 * GIB,))
    assert needs("AutoGPTQ", (3 * GIB,), disk=True, auto_devices=True)[0].weights > 0


def test_no_option_makes_a_model_smaller() -> None:
    assert list(memory("AutoGPTQ").remedies(LLAMA, options("AutoGPTQ"), [GIB])) == []
