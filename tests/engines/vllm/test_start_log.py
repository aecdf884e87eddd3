"""The log of a vLLM that starts tells how far it is, and why it failed. The lines are those of vLLM 0.32."""

from __future__ import annotations

from modules.core.events import Progress
from modules.engines.vllm.start_log import LONGEST_LINE, TAIL_LINES, StartLog, split_lines

SHARDS = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  5.04it/s]"
ENGINE = "(EngineCore pid=6072) ERROR 11-30 04:22:16 [core.py:1510] "
HEADS = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Total number of attention heads (9) must be divisible by tensor parallel size (4).
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
Traceback (most recent call last):
"""


def log_of(*lines: str) -> StartLog:
    log = StartLog()
    for line in lines:
        log.feed(line)
    return log


def test_the_progress_of_the_weights_and_the_compilation_is_read() -> None:
    log = StartLog()
    assert log.feed(SHARDS) == Progress("weights", 0.5)
    assert log.feed("Capturing CUDA graphs (decode, FULL):  10%|#    | 1/10") == Progress("kernels", 0.0)
    assert log.feed("(Worker pid=30296) INFO 11-30 04:11:46 [x.py:1] Initializing model took 0.13 seconds") is None
    assert log.feed("(APIServer pid=2) WARNING [vllm.py:1] Enforce eager set, disabling torch.compile") is None
    assert log.feed("") is None


def test_the_reason_is_the_exception_of_the_process_that_failed_first() -> None:
    failed, consequence = (
        "ValueError: No available memory for the cache blocks.",
        "RuntimeError: Engine core initialization failed.",
    )
    log = log_of(f"{ENGINE}Traceback (most recent call last):", ENGINE + failed, "Traceback", failed, consequence)
    assert log.reason() == failed


def test_a_server_that_runs_ends_for_its_last_reason() -> None:
    log = log_of("ValueError: a warning of the start")
    log.is_running = True
    for line in (
        "ValueError: No adapter found",
        "KeyError: 'x'",
        "vllm.v1.EngineDeadError: EngineCore encountered an issue.",
    ):
        log.feed(line)
    assert log.reason() == "KeyError: 'x'"


def test_the_reason_includes_the_further_lines_of_a_message() -> None:
    assert log_of(*HEADS.splitlines()).reason() == "\n".join(HEADS.splitlines()[:3])


def test_without_an_exception_the_reason_is_the_last_lines() -> None:
    log = log_of(*(f"line {number}" for number in range(40)))
    assert log.reason().splitlines() == [f"line {number}" for number in range(40 - TAIL_LINES, 40)]
    assert (
        log_of("A message about `OSError: [Errno 24]` is none").reason()
        == "A message about `OSError: [Errno 24]` is none"
    )


def test_lines_end_with_either_sign_or_at_a_limit() -> None:
    buffer = bytearray("a\rb\n你".encode())
    assert list(split_lines(buffer)) == ["a", "b"] and buffer.decode() == "你"
    buffer = bytearray(b"x" * (LONGEST_LINE + 10))
    assert list(split_lines(buffer)) == ["x" * LONGEST_LINE] and len(buffer) == 10
