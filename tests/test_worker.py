"""The child process and its protocol: several calls at once, turns, cancelling, errors of one call, library chatter."""

from __future__ import annotations

import queue
from pathlib import Path
from time import monotonic

import pytest

from modules.core.errors import UNNAMED, InternalError, LoadFailed, NoModelLoaded, Unsupported, WorkerDied
from modules.core.events import ENDS, Done, Event, Failed, Progress, Result, Text, Waiting
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import ECHO, load, load_arguments


class Call:
    """One call and what came of it so far."""

    def __init__(self, worker: WorkerProcess, operation: str, **args: object) -> None:
        self.inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.worker = worker
        self.number = worker.start(operation, self.inbox.put, **args)

    def next(self) -> Event:
        return self.inbox.get(timeout=10)

    def all(self) -> list[Event]:
        """What has not been taken yet, up to the end of the call."""
        events = [self.next()]
        while not isinstance(events[-1], ENDS):
            events.append(self.next())
        return events

    def text(self) -> str:
        return "".join(event.text for event in self.all() if isinstance(event, Text))

    def cancel(self) -> None:
        self.worker.cancel(self.number)


def say(worker: WorkerProcess, prompt: str) -> Call:
    return Call(worker, "generate", prompt=prompt, params={})


def ask(worker: WorkerProcess, operation: str, **args: object) -> object:
    (event,) = worker.events(operation, **args)
    assert isinstance(event, Result)
    return event.value


def test_a_generation_is_its_texts_and_a_done(echo: WorkerProcess) -> None:
    assert say(echo, "hello count 3 世界").all() == [
        *(Text(f"{word} ") for word in ("hello", "0", "1", "2", "世界")),
        Done("stop", prompt_tokens=4, completion_tokens=5),
    ]


def test_loading_reports_progress_and_ends_with_what_is_known_of_the_model(worker: WorkerProcess) -> None:
    progress, result = Call(worker, "load", **load_arguments(Path("anything"), ECHO)).all()
    assert progress == Progress("weights", 1.0)
    assert isinstance(result, Result)
    assert result.value["context_length"] == 64


def test_progress_arrives_while_the_model_still_loads(worker: WorkerProcess) -> None:
    slow = Call(worker, "load", **load_arguments(Path("slow"), ECHO))
    seen = [slow.next() for _ in range(5)]
    assert seen == [Progress("weights", step / 200) for step in range(5)]
    worker.kill()


def test_several_calls_in_flight_each_get_their_own_events(echo: WorkerProcess) -> None:
    calls = [say(echo, f"call {number} count {number}") for number in range(5)]
    asked = [Call(echo, "repeat", text="ab", times=times) for times in range(5)]
    for number, call in enumerate(calls):
        assert call.text().split() == ["call", str(number), *map(str, range(number))]
    assert [call.all() for call in asked] == [[Result("ab" * times)] for times in range(5)]


def test_a_quick_question_is_answered_while_a_generation_runs(echo: WorkerProcess) -> None:
    long = say(echo, "slow count 1000")
    long.next()
    assert ask(echo, "count", text="one two three") == 3
    assert isinstance(long.next(), Text)
    long.cancel()


def test_on_a_serial_engine_those_who_wait_are_told_their_place(echo: WorkerProcess) -> None:
    first, second, third = say(echo, "slow count 20"), say(echo, "second"), say(echo, "third")
    assert (second.next(), third.next()) == (Waiting(1), Waiting(2))
    assert len(first.text().split()) == 20
    assert [second.text(), third.text()] == ["second ", "third "]


def test_who_is_alone_is_told_no_place(echo: WorkerProcess) -> None:
    assert not any(isinstance(event, Waiting) for event in say(echo, "count 3").all())


def test_nobody_is_told_that_no_call_goes_before_it(echo: WorkerProcess) -> None:
    """Even if the one before it gave up before the engine's next step."""
    for _ in range(20):
        first, second = say(echo, "slow count 100"), say(echo, "second")
        first.cancel()
        assert Waiting(0) not in second.all()


def test_closing_the_iterator_cancels_the_call_and_the_next_is_served_at_once(echo: WorkerProcess) -> None:
    long = echo.events("generate", prompt="slow count 1000", params={})
    assert next(long) == Text("0 ")
    began = monotonic()
    long.close()
    assert say(echo, "next").text() == "next "
    assert monotonic() - began < 1


def test_one_who_waits_can_give_up_without_disturbing_the_others(echo: WorkerProcess) -> None:
    first, second, third = say(echo, "slow count 10"), say(echo, "second"), say(echo, "third")
    second.cancel()
    assert first.text().split() == [str(number) for number in range(10)]
    assert third.text() == "third "
    assert all(isinstance(event, Waiting) for event in iter_now(second))


def iter_now(call: Call) -> list[Event]:
    return [call.inbox.get() for _ in range(call.inbox.qsize())]


def test_cancelling_what_has_ended_does_nothing(echo: WorkerProcess) -> None:
    call = say(echo, "short")
    call.all()
    call.cancel()
    call.cancel()
    assert say(echo, "next").text() == "next "


def test_a_call_that_does_not_let_itself_be_closed_stops_the_others_no_longer(echo: WorkerProcess) -> None:
    stubborn = say(echo, "stubborn")
    stubborn.next()
    stubborn.cancel()
    assert say(echo, "next").text() == "next "


@pytest.mark.parametrize(
    ("word", "error", "words"),
    [("fail", Unsupported, "the echo engine will not"), ("boom", InternalError, "RuntimeError: the echo engine broke")],
)
def test_an_error_ends_its_own_call_and_leaves_the_others(
    echo: WorkerProcess, word: str, error: type, words: str
) -> None:
    bad, good = say(echo, f"well {word}"), say(echo, "good")
    *told, failed = bad.all()
    assert told == [Text("well ")]
    assert isinstance(failed, Failed)
    assert type(failed.error) is error
    assert words in str(failed.error)
    assert good.text() == "good "
    assert echo.death is None


def test_an_answer_that_we_cannot_read_ends_the_worker_and_nobody_waits_for_ever(echo: WorkerProcess) -> None:
    """Such as an error that is not in `errors`, which would be a fault of ours."""
    first, second = say(echo, "refuse"), say(echo, "second")
    assert isinstance(first.all()[-1], Failed)
    assert isinstance(second.all()[-1], Failed)
    assert isinstance(echo.death, WorkerDied)


def test_an_operation_that_the_engine_lacks_is_unsupported(echo: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="cannot train"):
        ask(echo, "train")


def test_arguments_that_an_operation_does_not_take_are_an_error_of_that_call(echo: WorkerProcess) -> None:
    with pytest.raises(InternalError, match="TypeError"):
        ask(echo, "count", words="wrong")
    assert ask(echo, "count", text="right") == 1


def test_without_a_model_there_is_nothing_to_ask(worker: WorkerProcess) -> None:
    with pytest.raises(NoModelLoaded):
        list(worker.events("generate", prompt="hello", params={}))
    with pytest.raises(NoModelLoaded):
        ask(worker, "count", text="hello")


def test_explaining_loads_nothing(worker: WorkerProcess) -> None:
    told = ask(worker, "explain", **load_arguments(Path("fail"), ECHO, n_ctx=7))
    assert told == {"calls": {"echo": {"path": "fail", "n_ctx": 7}}, "notes": []}
    with pytest.raises(NoModelLoaded):
        ask(worker, "count", text="hello")


def test_a_refusal_to_load_arrives_as_it_is(worker: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="the echo engine will not"):
        load(worker, Path("fail"), ECHO)


def test_a_fault_while_loading_is_a_failed_load_in_the_librarys_words(worker: WorkerProcess) -> None:
    with pytest.raises(LoadFailed) as failed:
        load(worker, Path("/somewhere/boom"), ECHO)
    told = {"loader": "Echo", "model": "boom", "words": "RuntimeError: the echo engine broke", "cause": UNNAMED}
    assert vars(failed.value) == told


def test_after_a_failed_load_nothing_half_loaded_answers(worker: WorkerProcess) -> None:
    with pytest.raises(LoadFailed):
        load(worker, Path("boom"), ECHO)
    with pytest.raises(NoModelLoaded):
        ask(worker, "count", text="hello")


def test_an_engine_that_cannot_be_imported_is_a_failed_load(worker: WorkerProcess) -> None:
    args = load_arguments(Path("anything"), ECHO) | {"engine": "tests.nowhere"}
    with pytest.raises(LoadFailed, match=r"No module named 'tests\.nowhere'"):
        list(worker.events("load", **args))


def test_chatter_on_stdout_does_not_break_the_protocol(echo: WorkerProcess) -> None:
    assert say(echo, "before chatter between chatter after").text() == "before between after "


def test_chatter_while_loading_does_not_break_the_protocol(worker: WorkerProcess) -> None:
    assert load(worker, Path("chatter"), ECHO).context_length == 64


def test_what_was_printed_is_among_the_last_words(echo: WorkerProcess) -> None:
    with pytest.raises(WorkerDied) as died:
        list(echo.events("generate", prompt="chatter kill", params={}))
    lines = died.value.words.splitlines()
    assert [line for line in lines if "forged" in line]
    assert "written to descriptor 1" in lines
    assert "printed by a child process" in lines
    assert "at 100% 完" in lines, "of a line that overwrote itself, only what was seen last is told"


def test_an_answer_may_be_far_longer_than_a_pipe(echo: WorkerProcess) -> None:
    text = "猫" * 1_000_000
    assert ask(echo, "repeat", text=text, times=2) == text * 2


def test_text_that_is_no_proper_unicode_comes_back_as_it_went(echo: WorkerProcess) -> None:
    assert ask(echo, "repeat", text="half \ud83d a pair\0", times=1) == "half \ud83d a pair\0"


def test_a_change_of_adapters_waits_for_the_answers_under_way_and_later_ones_wait_for_it(echo: WorkerProcess) -> None:
    before = say(echo, "slow one two three adapters")
    change = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = say(echo, "adapters")
    assert ask(echo, "repeat", text="a", times=2) == "aa", "other operations do not wait"
    assert change.inbox.empty()
    assert after.next() == Waiting(1)
    assert (before.text(), after.text()) == ("one two three  ", "cat ")


def test_who_waits_for_a_change_of_adapters_can_be_cancelled(echo: WorkerProcess) -> None:
    before = say(echo, "slow one two three")
    change, after = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}]), say(echo, "unwanted")
    change.cancel()
    after.cancel()
    assert before.text() == "one two three "
    assert say(echo, "adapters").text() == " "


def test_what_waited_for_a_change_of_adapters_then_runs_together(echo: WorkerProcess) -> None:
    before = say(echo, "slow one two three")
    Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = [say(echo, "slow four five six"), say(echo, "slow seven eight nine")]
    assert [each.next() for each in after] == [Waiting(1), Waiting(2)]
    assert before.text() == "one two three "
    assert after[0].text() == "four five six "
    assert after[1].all()[0] == Waiting(1), "the engine has had it, too, and lets it wait for its own turn"


def test_a_change_that_is_called_off_holds_nobody_up(echo: WorkerProcess) -> None:
    before = say(echo, "slow one two three four five six seven eight")
    change = Call(echo, "apply_loras", adapters=[{"name": "cat", "weight": 1}])
    after = say(echo, "adapters")
    change.cancel()
    assert after.next() == Waiting(1)
    assert after.text() == " "
    assert before.text().startswith("one")
