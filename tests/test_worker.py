"""The worker process and its protocol: concurrent calls, queueing, cancellation, errors, output of libraries."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import cast

import pytest

from modules.core.errors import InternalError, NoModelLoaded, OptionError, Unsupported
from modules.core.events import ENDS, Done, Event, Failed, Progress, Result, Text, Waiting
from modules.core.paths import ROOT
from modules.core.prompt import Prompt, Replacement
from modules.core.worker_errors import UNNAMED, LoadFailed, TextTooLong, WorkerDied
from modules.engines.engine_protocol import BatchingEngine
from modules.engines.loglikelihoods import Loglikelihoods
from modules.runtime.worker_process import WorkerProcess
from modules.system.cancellation import Cancelled, CancelToken
from modules.worker import LARGE_REQUEST, Worker
from tests.conftest import ECHO, load, load_arguments


class Call:
    """A call and the events received so far."""

    def __init__(self, worker: WorkerProcess, operation: str, **args: object) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.worker = worker
        self.number = worker.start(operation, self.events.put, **args)

    def next_event(self) -> Event:
        return self.events.get(timeout=10)

    def remaining(self) -> list[Event]:
        """Wait for the end of the call and return the events that have not been read yet."""
        events = [self.next_event()]
        while not isinstance(events[-1], ENDS):
            events.append(self.next_event())
        return events

    def text(self) -> str:
        return "".join(event.text for event in self.remaining() if isinstance(event, Text))

    def cancel(self) -> None:
        self.worker.cancel(self.number)


def generate(worker: WorkerProcess, prompt: str) -> Call:
    return Call(worker, "generate", prompt=prompt, params={})


def result_of(worker: WorkerProcess, operation: str, **args: object) -> object:
    (event,) = worker.events(operation, **args)
    assert isinstance(event, Result)
    return event.value


def test_a_generation_yields_texts_and_done(echo: WorkerProcess) -> None:
    assert generate(echo, "hello count 3 世界").remaining() == [
        *(Text(f"{word} ") for word in ("hello", "0", "1", "2", "世界")),
        Done("stop", prompt_tokens=4, completion_tokens=5),
    ]


def test_the_end_of_a_generation_tells_how_its_prompt_was_shortened(echo: WorkerProcess) -> None:
    prompt = Prompt("one two three", 2, shorter=(Replacement(0, 0, "zero "), Replacement(0, 4, "")))
    *_, done = Call(echo, "generate", prompt=prompt.to_json(), params={}).remaining()
    assert done == Done("stop", prompt_tokens=2, completion_tokens=2, shortened=1)


def test_a_prompt_is_measured_whole_even_if_it_does_not_fit(echo: WorkerProcess) -> None:
    prompt = Prompt("one two three", 2, shorter=(Replacement(0, 4, ""),))
    assert result_of(echo, "measure", prompt=prompt.to_json(), params={}) == 3
    with pytest.raises(TextTooLong):
        list(echo.events("measure", prompt=Prompt("x" * 256 * 65).to_json(), params={}))


def test_a_prompt_of_token_ids_is_continued_as_it_is(echo: WorkerProcess) -> None:
    generate(echo, "one two three").remaining()
    prompt = Prompt("ignored", tokens=(2, 0, 0))
    assert Call(echo, "generate", prompt=prompt.to_json(), params={}).text() == "three one one "
    with pytest.raises(OptionError, match="token ids from 0 to 7"):
        list(echo.events("generate", prompt=Prompt("", tokens=(2, 8)).to_json(), params={}))


def test_the_seed_of_a_generation_is_reported_even_if_it_was_drawn(echo: WorkerProcess) -> None:
    seeds = set()
    for seed in (7, 0, -1, -1):
        *_, done = Call(echo, "generate", prompt="hello", params={"seed": seed}).remaining()
        assert isinstance(done, Done)
        assert done.seed == seed if seed >= 0 else 0 <= done.seed < 2**32 - 1
        seeds.add(done.seed)
    assert len(seeds) == 4


def test_loading_reports_progress_and_returns_the_info_of_the_model(worker: WorkerProcess) -> None:
    progress, result = Call(worker, "load", **load_arguments(Path("anything"), ECHO)).remaining()
    assert progress == Progress("weights", 1.0)
    assert isinstance(result, Result)
    assert result.value["context_length"] == 64


def test_progress_arrives_during_a_load(worker: WorkerProcess) -> None:
    slow = Call(worker, "load", **load_arguments(Path("slow"), ECHO))
    events = [slow.next_event() for _ in range(5)]
    assert events == [Progress("weights", step / 200) for step in range(5)]
    worker.kill()


def test_concurrent_calls_receive_their_own_events(echo: WorkerProcess) -> None:
    calls = [generate(echo, f"call {number} count {number}") for number in range(5)]
    questions = [Call(echo, "repeat", text="ab", times=times) for times in range(5)]
    for number, call in enumerate(calls):
        assert call.text().split() == ["call", str(number), *map(str, range(number))]
    assert [call.remaining() for call in questions] == [[Result("ab" * times)] for times in range(5)]


def test_a_quick_question_is_answered_while_a_generation_runs(echo: WorkerProcess) -> None:
    long = generate(echo, "slow count 1000")
    long.next_event()
    assert result_of(echo, "count", text="one two three") == 3
    assert isinstance(long.next_event(), Text)
    long.cancel()


HELD = "held " + "word " * (LARGE_REQUEST // 5)
"""A large text that the echo engine does not split into words until `release` is asked."""


def test_requests_do_not_wait_for_a_large_one(echo: WorkerProcess) -> None:
    large = Call(echo, "count", text=HELD)
    assert result_of(echo, "count", text="one two three") == 3
    assert generate(echo, "short").text() == "short "
    assert large.events.empty()
    result_of(echo, "release")
    assert large.remaining() == [Result(len(HELD.split()))]


def test_a_large_prompt_that_cannot_fit_is_refused(echo: WorkerProcess) -> None:
    with pytest.raises(TextTooLong):
        list(echo.events("generate", prompt=HELD, params={}))


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_large_prompt_is_cancelled_while_it_is_tokenized_or_waits_for_another(
    echo: WorkerProcess, cancelled: int
) -> None:
    shortened = Prompt(HELD, shorter=(Replacement(0, len(HELD) - 5, "held slow "),)).to_json()
    calls = [Call(echo, "generate", prompt=shortened, params={}) for _ in range(2)]
    calls[cancelled].cancel()
    result_of(echo, "release")
    events = [*calls[1 - cancelled].remaining(), *generate(echo, "next").remaining()]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "held word next "
    assert not any(isinstance(event, Waiting) for event in events), "the cancelled call runs"
    assert calls[cancelled].events.empty()


def test_a_question_is_given_up_with_the_work_that_asks_it(echo: WorkerProcess) -> None:
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()
    with pytest.raises(Cancelled):
        token.run(partial(echo.call, "count", text=HELD))
    result_of(echo, "release")


def test_queued_calls_of_a_serial_engine_receive_their_position(echo: WorkerProcess) -> None:
    first, second, third = generate(echo, "slow count 8"), generate(echo, "second"), generate(echo, "third")
    assert (second.next_event(), third.next_event()) == (Waiting(1), Waiting(2))
    assert len(first.text().split()) == 8
    assert [second.text(), third.text()] == ["second ", "third "]


def test_a_call_that_does_not_wait_receives_no_position(echo: WorkerProcess) -> None:
    assert not any(isinstance(event, Waiting) for event in generate(echo, "count 3").remaining())


def test_position_zero_is_never_sent(echo: WorkerProcess) -> None:
    """Not even if the preceding call is cancelled before the engine's next step."""
    for _ in range(20):
        first, second = generate(echo, "slow count 100"), generate(echo, "second")
        first.cancel()
        assert Waiting(0) not in second.remaining()


def test_closing_the_iterator_cancels_the_call_and_the_next_call_starts_at_once(echo: WorkerProcess) -> None:
    long = echo.events("generate", prompt="slow count 1000", params={})
    assert next(long) == Text("0 ")
    start = monotonic()
    long.close()
    assert generate(echo, "next").text() == "next "
    assert monotonic() - start < 1


def test_a_cancelled_generation_tells_what_is_known_of_its_prompt(echo: WorkerProcess) -> None:
    prompt = Prompt("one two three slow count 1000", 5, shorter=(Replacement(0, 4, ""),))
    call = Call(echo, "generate", prompt=prompt.to_json(), params={"seed": 7})
    call.next_event()
    assert echo.cancel(call.number) == Done("cancelled", prompt_tokens=5, shortened=0, seed=7)
    assert echo.cancel(call.number) == Done("cancelled")


def test_cancelling_a_queued_call_does_not_affect_the_others(echo: WorkerProcess) -> None:
    first, second, third = generate(echo, "slow count 10"), generate(echo, "second"), generate(echo, "third")
    second.cancel()
    assert first.text().split() == [str(number) for number in range(10)]
    assert third.text() == "third "
    assert all(isinstance(event, Waiting) for event in received_events(second))


def received_events(call: Call) -> list[Event]:
    return [call.events.get() for _ in range(call.events.qsize())]


def test_cancelling_an_ended_call_does_nothing(echo: WorkerProcess) -> None:
    call = generate(echo, "short")
    call.remaining()
    call.cancel()
    call.cancel()
    assert generate(echo, "next").text() == "next "


def test_a_generator_that_refuses_to_close_does_not_block_the_next_call(echo: WorkerProcess) -> None:
    stubborn = generate(echo, "stubborn")
    stubborn.next_event()
    stubborn.cancel()
    assert generate(echo, "next").text() == "next "


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [("fail", Unsupported, "the echo engine will not"), ("boom", InternalError, "RuntimeError: the echo engine broke")],
)
def test_an_error_ends_only_its_own_call(echo: WorkerProcess, word: str, error: type, message: str) -> None:
    bad, good = generate(echo, f"well {word}"), generate(echo, "good")
    *texts, failed = bad.remaining()
    assert texts == [Text("well ")]
    assert isinstance(failed, Failed)
    assert type(failed.error) is error
    assert message in str(failed.error)
    assert good.text() == "good "
    assert echo.death is None


def test_an_unreadable_event_ends_the_worker_and_fails_all_calls(echo: WorkerProcess) -> None:
    """Such as an error class that is not in `errors`, which would be a bug of this program."""
    first, second = generate(echo, "refuse"), generate(echo, "second")
    assert isinstance(first.remaining()[-1], Failed)
    assert isinstance(second.remaining()[-1], Failed)
    assert isinstance(echo.death, WorkerDied)


def test_an_operation_that_the_engine_lacks_is_unsupported(echo: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="does not support train"):
        result_of(echo, "train")


def test_a_serial_engine_lists_no_candidates_for_the_next_token(echo: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="cannot list the candidates"):
        list(echo.events("next", prompt="one two", params={}, top=5))
    assert generate(echo, "one").text() == "one "


def test_invalid_arguments_of_an_operation_fail_only_that_call(echo: WorkerProcess) -> None:
    with pytest.raises(InternalError, match="TypeError"):
        result_of(echo, "count", words="wrong")
    assert result_of(echo, "count", text="right") == 1


def test_operations_are_refused_without_a_loaded_model(worker: WorkerProcess) -> None:
    with pytest.raises(NoModelLoaded):
        list(worker.events("generate", prompt="hello", params={}))
    with pytest.raises(NoModelLoaded):
        result_of(worker, "count", text="hello")


def test_explain_loads_no_model(worker: WorkerProcess) -> None:
    explanation = result_of(worker, "explain", **load_arguments(Path("fail"), ECHO, n_ctx=32))
    assert explanation == {"calls": {"echo": {"path": "fail", "n_ctx": 32}}, "notes": []}
    with pytest.raises(NoModelLoaded):
        result_of(worker, "count", text="hello")


def test_a_known_error_of_a_load_is_raised_unchanged(worker: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="the echo engine will not"):
        load(worker, Path("fail"), ECHO)


def test_an_unknown_error_of_a_load_is_a_failed_load_with_the_message_of_the_library(worker: WorkerProcess) -> None:
    with pytest.raises(LoadFailed) as failed:
        load(worker, Path("/somewhere/boom"), ECHO)
    expected = {"loader": "Echo", "model": "boom", "words": "RuntimeError: the echo engine broke", "cause": UNNAMED}
    assert vars(failed.value) == expected


def test_after_a_failed_load_no_model_is_loaded(worker: WorkerProcess) -> None:
    with pytest.raises(LoadFailed):
        load(worker, Path("boom"), ECHO)
    with pytest.raises(NoModelLoaded):
        result_of(worker, "count", text="hello")


def test_an_engine_that_cannot_be_imported_is_a_failed_load(worker: WorkerProcess) -> None:
    args = load_arguments(Path("anything"), ECHO) | {"engine": "tests.nowhere"}
    with pytest.raises(LoadFailed, match=r"No module named 'tests\.nowhere'"):
        list(worker.events("load", **args))


def test_output_on_stdout_does_not_break_the_protocol(echo: WorkerProcess) -> None:
    assert generate(echo, "before chatter between chatter after").text() == "before between after "


def test_output_during_a_load_does_not_break_the_protocol(worker: WorkerProcess) -> None:
    assert load(worker, Path("chatter"), ECHO).context_length == 64


def test_the_last_output_of_a_dead_worker_is_reported(echo: WorkerProcess) -> None:
    with pytest.raises(WorkerDied) as died:
        list(echo.events("generate", prompt="chatter kill", params={}))
    lines = died.value.words.splitlines()
    assert [line for line in lines if "forged" in line]
    assert "written to descriptor 1" in lines
    assert "printed by a child process" in lines
    assert "at 100% 完" in lines, "of a line with carriage returns, only the last state is kept"


def test_a_result_may_be_far_larger_than_the_pipe_buffer(echo: WorkerProcess) -> None:
    text = "猫" * 1_000_000
    assert result_of(echo, "repeat", text=text, times=2) == text * 2


def test_text_with_lone_surrogates_is_returned_unchanged(echo: WorkerProcess) -> None:
    assert result_of(echo, "repeat", text="half \ud83d a pair\0", times=1) == "half \ud83d a pair\0"


def test_applying_adapters_waits_for_running_generations_and_later_ones_wait_for_it(echo: WorkerProcess) -> None:
    before = generate(echo, "slow one two three adapters")
    change = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = generate(echo, "adapters")
    assert result_of(echo, "repeat", text="a", times=2) == "aa", "other operations do not wait"
    assert change.events.empty()
    assert after.next_event() == Waiting(1)
    assert (before.text(), after.text()) == ("one two three  ", "cat ")


def test_calls_that_wait_for_adapters_can_be_cancelled(echo: WorkerProcess) -> None:
    before = generate(echo, "slow one two three")
    change, after = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}]), generate(echo, "unwanted")
    change.cancel()
    after.cancel()
    assert before.text() == "one two three "
    assert generate(echo, "adapters").text() == " "


def test_calls_that_waited_for_adapters_are_started_together(echo: WorkerProcess) -> None:
    before = generate(echo, "slow one two three")
    Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = [generate(echo, "slow four five six"), generate(echo, "slow seven eight nine")]
    assert [call.next_event() for call in after] == [Waiting(1), Waiting(2)]
    assert before.text() == "one two three "
    assert after[0].text() == "four five six "
    assert after[1].remaining()[0] == Waiting(1), "the engine has received the call and queues it"


def test_a_cancelled_application_of_adapters_does_not_delay_other_calls(echo: WorkerProcess) -> None:
    before = generate(echo, "slow one two three four five six seven eight")
    change = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = generate(echo, "adapters")
    change.cancel()
    assert after.next_event() == Waiting(1)
    assert after.text() == " "
    assert before.text().startswith("one")


def test_an_evaluation_runs_in_parts_between_the_steps_of_generations(echo: WorkerProcess) -> None:
    counting = generate(echo, "slow count 4")
    assert isinstance(counting.next_event(), Text)
    result = echo.call("loglikelihoods", tokens=[1, 2, 3], first=1)
    assert Loglikelihoods.from_json(result).logprobs == (-2, -3)
    assert counting.text() == "1 2 3 "


def test_an_evaluation_that_fails_leaves_generations_alone(echo: WorkerProcess) -> None:
    counting = generate(echo, "slow count 4")
    with pytest.raises(InternalError, match="broke"):
        echo.call("loglikelihoods", tokens=[1, 7], first=1)
    with pytest.raises(OptionError):
        echo.call("loglikelihoods", tokens=[1, 7], first=2)
    assert counting.text() == "0 1 2 3 "


def test_a_cancelled_evaluation_ends_at_once(echo: WorkerProcess) -> None:
    long = [1] * 64
    for _ in range(100):
        Call(echo, "loglikelihoods", tokens=long, first=1).cancel()
    begin = monotonic()
    echo.call("loglikelihoods", tokens=long, first=1)
    assert monotonic() - begin < 1  # the hundred would take 3.2 s


def test_applying_adapters_waits_for_an_evaluation_and_later_ones_wait_for_it(echo: WorkerProcess) -> None:
    before = Call(echo, "loglikelihoods", tokens=[1] * 64, first=1)
    applied = Call(echo, "apply_loras", adapters=[{"name": "one", "weight": 1.0}])
    after = Call(echo, "loglikelihoods", tokens=[1, 2], first=1)
    for call, logprobs in ((before, (-1,) * 63), (after, (-3,))):
        (end,) = call.remaining()
        assert isinstance(end, Result) and Loglikelihoods.from_json(end.value).logprobs == logprobs
    assert applied.remaining() == [Result([10.0])]
    echo.call("apply_loras", adapters=[])


class Steps:
    """An engine whose steps yield one text each."""

    def step(self) -> Iterator[tuple[int, Event]]:
        yield 1, Text("word ")


def test_the_first_text_of_an_answer_is_sent_at_once_and_the_next_ones_together() -> None:
    written = io.BytesIO()
    worker, engine = Worker(written), cast(BatchingEngine, Steps())
    worker._running, worker._silent, worker._sent_at = {1: {}}, {1}, monotonic() + 60  # just after another answer
    worker._step(engine)
    assert written.getvalue().count(b"word") == 1
    worker._sent_at = monotonic() + 60
    worker._step(engine)
    worker._step(engine)
    assert written.getvalue().count(b"word") == 1
    worker._flush()
    assert written.getvalue().count(b"word") == 3


class Broken(Steps):
    """An engine whose step fails after a text."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    def step(self) -> Iterator[tuple[int, Event]]:
        yield from super().step()
        raise RuntimeError("the cache is damaged")

    def cancel(self, call: int) -> None:
        self.cancelled.append(call)


def test_a_step_that_fails_ends_every_generation_with_its_reason_after_its_text() -> None:
    written, engine = io.BytesIO(), Broken()
    worker = Worker(written)
    worker._running = {1: {}, 2: {}}
    worker._step(cast(BatchingEngine, engine))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line[:2] for line in lines] == [[0, "Texts"], [1, "Failed"], [2, "Failed"]]
    assert "word" in str(lines[0]) and all("the cache is damaged" in str(line) for line in lines[1:])
    assert engine.cancelled == [1, 2] and not worker._running


@pytest.mark.usefixtures("new_processes")
def test_a_worker_that_cannot_hear_or_be_heard_ends() -> None:
    command = [sys.executable, "-m", "modules.worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        subprocess.Popen(command, cwd=ROOT, **pipes) as deaf,  # type: ignore[call-overload]
        subprocess.Popen(command, cwd=ROOT, **pipes) as unheard,  # type: ignore[call-overload]
    ):
        deaf.stdin.write(b"no request\n")
        deaf.stdin.flush()
        assert deaf.wait(30) == 1 and b"JSONDecodeError" in deaf.stderr.read()
        unheard.stdout.close()
        unheard.stdin.write(b'[1, "fly", {}]\n')
        unheard.stdin.flush()
        assert unheard.wait(30) == 0 and unheard.stderr.read() == b""
