"""The served engine against a real server: streams, stops, what breaks, and what goes on."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modules.core.errors import Unsupported
from modules.core.events import ENDS, Done, Event, Failed, Json, Result, Text, Waiting
from modules.core.prompt import Prompt
from modules.core.server_errors import (
    ServerBrokeOff,
    ServerBusy,
    ServerChanged,
    ServerDenied,
    ServerError,
    ServerLost,
    ServerNotUnderstood,
    ServerRefused,
    ServerSilent,
    ServerUnreachable,
)
from modules.engines.served import generation, outbox, retries
from modules.engines.served.engine import ServedEngine
from modules.engines.served.generation import Limits
from modules.engines.served.llama_server import LlamaServer
from modules.engines.served.openai import OpenAi
from modules.engines.served.server_connection import ServerConnection
from modules.engines.served.server_kind import ServerFacts
from modules.engines.served.target import Target
from modules.engines.served.vllm import Vllm
from modules.loaders.generation_settings import resolve
from tests.support.fake_server import CUT, RESET, STALL, FakeServer, Part, Reply, Request, data, stream
from tests.support.served_loader import OPTIONS

PATH = "/v1/completions"
FACTS = ServerFacts("vllm", "m", context_length=1000, takes_ids=True, counts=True)
PROMPT_IDS = [500, 501]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def engine(server: FakeServer) -> Iterator[ServedEngine]:
    engine = engine_of(server)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.02, 0.03))


def engine_of(server: FakeServer, **limits: Any) -> ServedEngine:
    connection = ServerConnection(Target(server.url))
    return ServedEngine(connection, Vllm(connection.ask, FACTS), Limits(**limits))


def submit(engine: ServedEngine, call: int = 1, prompt: Prompt | None = None, **raw: Any) -> None:
    stops = raw.pop("stops", ())
    engine.submit_text(call, prompt or Prompt("the prompt"), resolve({"max_new_tokens": 1000} | raw, stops))


def events_of(engine: ServedEngine) -> dict[int, list[Event]]:
    """Run the engine until it is idle, for at most four seconds."""
    events: dict[int, list[Event]] = {}
    ends_at = time.monotonic() + 4
    while not engine.idle:
        assert time.monotonic() < ends_at, events
        for call, event in engine.step():
            events.setdefault(call, []).append(event)
    return events


def generated(engine: ServedEngine, **raw: Any) -> tuple[str, Event]:
    """Return the text and the end of a generation."""
    submit(engine, **raw)
    return text_and_end(events_of(engine)[1])


def text_and_end(events: list[Event]) -> tuple[str, Event]:
    assert isinstance(events[-1], ENDS) and not any(isinstance(event, ENDS) for event in events[:-1])
    return "".join(event.text for event in events if isinstance(event, Text)), events[-1]


def piece(text: str, reason: str | None = None, **fields: Json) -> bytes:
    return data({"choices": [{"text": text, "finish_reason": reason, **fields}]})


USAGE = data({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
END = b"data: [DONE]"
ROLE = data({"choices": [{"delta": {"role": "assistant"}}]})


def test_a_stream_becomes_text_and_done(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(piece("世"), piece("界", "stop"), USAGE, END))
    text, done = generated(engine, seed=5)
    assert text == "世界" and isinstance(done, Done)
    assert (done.reason, done.prompt_tokens, done.completion_tokens, done.seed, done.shortened) == ("stop", 3, 2, 5, -1)
    assert server.requests[0].json()["prompt"] == "the prompt" and engine.idle


def test_a_stream_is_the_same_byte_by_byte_and_without_done(server: FakeServer, engine: ServedEngine) -> None:
    body = b"".join(part + b"\n\n" for part in (piece("世😀"), piece("\ud83d"), piece("\ude00", "length")))
    server.add(PATH, Reply(parts=[bytes([byte]) for byte in body], headers={"Content-Type": "text/event-stream"}))
    text, done = generated(engine)
    assert text == "世😀😀" and isinstance(done, Done) and done.reason == "length"


def test_an_answer_whose_end_has_come_is_done_whatever_follows(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    for after in ([CUT], [RESET], [data({"error": "x"})], [END, STALL], [b"data: nonsense"]):
        with subtests.test(after=after):
            server.add(PATH, stream(piece("one"), piece(" two", "stop"), 0.02, *after))
            text, done = generated(engine)
            assert text == "one two" and isinstance(done, Done)


def test_an_answer_that_breaks_is_never_done_and_its_text_is_kept(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    for end, error, words in (
        ([0.02, CUT], ServerLost, "the server closed it"),
        ([0.02, RESET], ServerLost, "connection"),
        ([END], ServerLost, "ended early"),
        ([], ServerLost, "ended early"),
        (
            [data({"error": {"message": "CUDA out of\nmemory"}})],
            ServerBrokeOff,
            "broke the answer off: CUDA out of memory",
        ),
        ([b'event: error\ndata: {"message": "out of time"}'], ServerBrokeOff, "out of time"),
        ([piece("", "abort")], ServerBrokeOff, "abort"),
        ([b"data: nonsense"], ServerNotUnderstood, "does not belong to its API"),
        ([data({"choices": [{"text": 7}]})], ServerNotUnderstood, "does not belong to its API"),
        ([b"data: " + b"[" * 100_000], ServerNotUnderstood, "does not belong to its API"),
    ):
        with subtests.test(words=words):
            server.add(PATH, stream(piece("one "), piece("two E"), *end))
            text, failed = generated(engine, stops=["END"])
            assert text == "one two E" and isinstance(failed, Failed)
            assert isinstance(failed.error, error) and words in str(failed.error)
            assert re.search("[Tt]ry again|send it again|Check the", str(failed.error)), "it says what to do"
    assert len(server.requests) == 10


def test_an_answer_of_another_model_than_the_one_that_was_loaded_is_not_done(server: FakeServer) -> None:
    connection = ServerConnection(Target(server.url))
    facts = ServerFacts("llama-server", "m", context_length=1000, alias="m")
    engine = ServedEngine(connection, LlamaServer(connection.ask, facts), Limits())
    for model in ("m", "other"):
        end = {"content": "", "stop": True, "stop_type": "eos", "model": model}
        server.add("/completion", stream(data({"content": "one", "stop": False}), data(end)))
        text, last = generated(engine)
        assert text == "one"
        if model == "m":
            assert isinstance(last, Done)
        else:
            assert isinstance(last, Failed) and isinstance(last.error, ServerChanged)
            assert "now runs 'other' instead of 'm'. Load" in str(last.error)
    engine.close()


def test_silence_ends_an_answer(server: FakeServer) -> None:
    engine = engine_of(server, first_seconds=0.05, idle_seconds=0.15)
    server.add(PATH, stream(b": life", STALL), stream(piece("one"), 0.08, piece(" two"), STALL))
    text, failed = generated(engine)
    assert text == "" and isinstance(failed, Failed) and isinstance(failed.error, ServerSilent)
    text, failed = generated(engine)
    assert text == "one two" and isinstance(failed, Failed) and "0.15 s" in str(failed.error)
    assert len(server.requests) == 2
    engine.close()


def test_silence_within_an_answer_ends_it_although_more_was_allowed_before(server: FakeServer) -> None:
    engine = engine_of(server, first_seconds=30, idle_seconds=0.1)
    server.add(PATH, stream(0.02, piece("one"), STALL))
    text, failed = generated(engine)
    assert text == "one" and isinstance(failed, Failed) and "0.1 s" in str(failed.error)
    engine.close()


def test_a_complete_answer_does_not_go_on_for_ever(
    server: FakeServer, engine: ServedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "GRACE_SECONDS", 0.1)
    server.add(PATH, stream(piece("one", "stop"), *[0.05, b": life"] * 100, STALL))
    text, done = generated(engine)
    assert text == "one" and isinstance(done, Done)


def test_a_request_that_brought_nothing_is_sent_again(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    whole = stream(piece("one", "stop"), END)
    for failures in (
        [Reply(503)] * 3,
        [Reply(502), stream(RESET), stream(CUT)],
        [stream(b": life", CUT)] * 2 + [stream(ROLE, CUT)],
    ):
        with subtests.test(failures=failures):
            server.add(PATH, *failures, whole)
            assert generated(engine)[0] == "one"
    server.add(PATH, *[stream()] * 4, whole)
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and "ended early" in str(failed.error), "four empty responses, as four refusals"
    server.add(PATH, Reply(204), whole)
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and "not a stream of events" in str(failed.error), "asking again is of no use"
    server.add(PATH, *[Reply(503)] * 4, whole)
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and "HTTP 503): (no message)" in str(failed.error)
    server.add(PATH, Reply(400, json={"error": "bad prompt"}), whole)
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and isinstance(failed.error, ServerRefused) and "bad prompt" in str(failed.error)


def test_a_busy_server_makes_the_request_wait(
    server: FakeServer, engine: ServedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(PATH, Reply(429, headers={"Retry-After": "0.05"}), stream(piece("one", "stop"), END))
    submit(engine)
    events = events_of(engine)[1]
    assert events[0] == Waiting(1) and text_and_end(events)[0] == "one"
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.1)
    server.add(PATH, Reply(429, headers={"Retry-After": "30"}, json={"error": "too many"}))
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and isinstance(failed.error, ServerBusy) and "too many" in str(failed.error)


def test_an_answer_is_limited_by_the_name_that_the_server_asks_for(server: FakeServer) -> None:
    refused = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}

    def answer(request: Request) -> Reply:
        whole = stream(data({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}), END)
        return Reply(400, json=refused) if "max_tokens" in request.json() else whole

    server.add("/v1/chat/completions", answer)
    connection = ServerConnection(Target(server.url))
    facts = ServerFacts("openai", "o", messages=True)
    engine = ServedEngine(connection, OpenAi(connection.ask, facts), Limits())
    prompt = Prompt("", messages=({"role": "user", "content": "Hi"},))
    for _ in range(2):
        text, done = generated(engine, prompt=prompt, max_new_tokens=9)
        assert text == "Hi" and isinstance(done, Done)
    engine.close()
    bodies = [request.json() for request in server.requests]
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in bodies]
    assert limits == [(9, None), (None, 9), (None, 9)]


def test_a_refusal_of_both_names_is_final(server: FakeServer) -> None:
    server.add("/v1/chat/completions", Reply(400, json={"error": "max_completion_tokens is too large"}))
    connection = ServerConnection(Target(server.url))
    engine = ServedEngine(connection, OpenAi(connection.ask, ServerFacts("openai", "o", messages=True)), Limits())
    _, end = generated(engine, prompt=Prompt("", messages=({"role": "user", "content": "Hi"},)), max_new_tokens=9)
    engine.close()
    assert isinstance(end, Failed) and isinstance(end.error, ServerRefused) and len(server.requests) == 2


def test_a_server_that_does_not_run_is_unreachable(server: FakeServer, engine: ServedEngine) -> None:
    server.close()
    _, failed = generated(engine)
    assert isinstance(failed, Failed) and isinstance(failed.error, ServerUnreachable)


def test_cancelling_closes_the_connection_and_says_nothing_more(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(piece("one"), STALL))
    submit(engine)
    assert [event for _, event in engine.step()] == [Text("one")]
    engine.cancel(1)
    assert engine.idle and server.wait_for(lambda: server.gone == [0])
    engine.interrupt(urgent=True)
    assert list(engine.step()) == []


def test_a_stop_string_that_only_we_see_ends_the_answer_at_once(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(piece("one EN"), piece("D two"), STALL))
    text, done = generated(engine, stops=["END"])
    assert text == "one " and isinstance(done, Done) and done.stop_string == "END"
    assert server.wait_for(lambda: server.gone == [0])


def test_more_generations_than_allowed_wait_for_their_turn(server: FakeServer) -> None:
    engine = engine_of(server, streams=2)
    server.add(PATH, lambda request: stream(piece(str(request.number)), 0.05, piece("", "stop"), END))
    for call in range(1, 6):
        submit(engine, call)
    events = events_of(engine)
    assert [event for call in (3, 4, 5) for event in events[call] if isinstance(event, Waiting)]
    assert all(isinstance(events[call][-1], Done) for call in range(1, 6))
    assert not [event for call in (1, 2) for event in events[call] if isinstance(event, Waiting)]
    submit(engine, 6), submit(engine, 7), submit(engine, 8), submit(engine, 9)
    engine.cancel(8), engine.cancel(6)
    assert {call for call, (*_, end) in events_of(engine).items() if isinstance(end, Done)} == {7, 9}
    engine.close()


def test_those_behind_a_waiting_generation_that_is_cancelled_move_up(server: FakeServer) -> None:
    engine = engine_of(server, streams=1)
    server.add(PATH, stream(piece("one"), STALL), stream(piece("three", "stop"), END))
    for call in (1, 2, 3):
        submit(engine, call)
    seen: list[tuple[int, Event]] = []
    for position, cancelled in ((2, 2), (1, 1)):
        while (3, Waiting(position)) not in seen:
            seen += engine.step()
        engine.cancel(cancelled)
    assert text_and_end(events_of(engine)[3])[0] == "three" and len(server.requests) == 2
    engine.close()


def test_a_generation_that_is_cancelled_as_its_turn_comes_gives_the_turn_to_the_next(server: FakeServer) -> None:
    connection = ServerConnection(Target(server.url))
    engine = ServedEngine(connection, Vllm(connection.ask, FACTS), Limits(streams=1))
    server.add(PATH, stream(piece("one"), STALL), stream(piece("three", "stop"), END))
    for call in (1, 2, 3):
        submit(engine, call)
    assert server.wait_for(lambda: len(server.requests) == 1)
    cancelled = threading.Event()

    def cancel_both() -> None:
        """Cancel the running one and, after the event loop has begun to end it, the one whose turn it then is."""
        engine.cancel(1)
        connection.loop.call_soon(engine.cancel, 2)
        connection.loop.call_soon(cancelled.set)

    connection.loop.call_soon_threadsafe(cancel_both)
    assert cancelled.wait(2)
    events = events_of(engine)
    assert text_and_end(events[3])[0] == "three" and len(server.requests) == 2
    engine.close()


def test_a_server_that_refuses_to_be_opened_leaves_no_thread(server: FakeServer) -> None:
    server.add("/v1/models", Reply(401, json={"error": "no key"}))
    before = set(threading.enumerate())
    with pytest.raises(ServerDenied, match="no key"):
        ServedEngine.open(Target(server.url), OPTIONS, lambda _: None)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "server"]


def test_an_endless_answer_is_ended(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(*[piece("x" * 1000)] * 10, STALL))
    text, failed = generated(engine, max_new_tokens=10)
    assert 1000 <= len(text) <= 2560 and isinstance(failed, Failed) and "longer than was asked for" in str(failed.error)


def test_a_stream_that_nobody_reads_is_not_read_from_the_server(server: FakeServer, engine: ServedEngine) -> None:
    sent: list[int] = []
    events: list[Part] = [piece("x" * 200_000) for _ in range(100)]
    marked = [
        part for number, event in enumerate(events) for part in (event, lambda number=number: sent.append(number))
    ]
    server.add(PATH, stream(*marked, piece("", "stop"), END))
    submit(engine, max_new_tokens=100_000)
    time.sleep(0.3)
    assert 0 < len(sent) < 80  # one megabyte here, some twelve in the buffers of both systems
    text, done = text_and_end(events_of(engine)[1])
    assert len(text) == 20_000_000 and isinstance(done, Done)


def test_nothing_that_a_server_sends_is_called_a_defect_of_ours(
    server: FakeServer, engine: ServedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.001,))
    whole = [piece("one ", token_ids=[1]), piece("世界", token_ids=[2]), b": x", piece("", "stop"), USAGE, END]
    response = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n" + b"".join(event + b"\n\n" for event in whole)
    inserted = (
        b"{",
        b"]",
        b"null",
        b'"choices"',
        b"\n\n",
        b"\xff",
        b"\x00",
        b"1e999",
        b'"text"',
        b"Content-Length: 5\r\n",
    )
    for seed in range(100):
        chance, body = random.Random(seed), bytearray(response)
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(body))
            body[start : start + chance.choice((0, 1, 20))] = chance.choice(inserted)
        server.add(PATH, Reply(parts=[bytes(body), CUT], raw=True))
        _, end = generated(engine)
        assert isinstance(end, Done) or (isinstance(end, Failed) and isinstance(end.error, ServerError)), (seed, end)


def test_questions_are_answered_beside_a_generation(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(piece("one"), STALL))
    server.add("/tokenize", Reply(json={"tokens": [1, 2, 3]}))
    submit(engine)
    engine.submit_question(2, "count", {"text": "x"})
    engine.submit_question(3, "measure", {"prompt": Prompt("x").to_json(), "params": {}})
    engine.submit_question(4, "count", {"wrong": "x"})
    with pytest.raises(Unsupported, match="operation 'fly'"):
        engine.submit_question(5, "fly", {})
    events: list[tuple[int, Event]] = []
    while len(events) < 4:
        events += engine.step()
    assert {(2, Result(3)), (3, Result(3)), (1, Text("one"))} < set(events)
    assert next(event for call, event in events if call == 4).__class__ is Failed
    engine.cancel(1)


def test_a_long_prompt_is_counted_and_a_short_one_is_not(server: FakeServer, engine: ServedEngine) -> None:
    server.add(PATH, stream(piece("one", "stop"), END))
    server.add("/tokenize", Reply(json={"tokens": [1] * 1200}))
    generated(engine)
    assert [request.path for request in server.requests] == [PATH]
    _, failed = generated(engine, prompt=Prompt("x" * 2000))
    assert isinstance(failed, Failed) and "1200" in str(failed.error)


class Numbers:
    """A server of the numbers from 0 on, a token each, that goes on where a prompt of token ids ends.

    It sends the ids of one in `every` tokens.
    """

    def __init__(
        self, server: FakeServer, count: int, breaks: Callable[[int], list[Part] | None], every: int = 1
    ) -> None:
        self._count, self._breaks, self._every = count, breaks, every
        server.add(PATH, self.reply)
        server.add("/detokenize", self.decoded)

    @staticmethod
    def _text(tokens: list[int]) -> str:
        return "".join(f"<{token}>" if token in PROMPT_IDS else f" {token}" for token in tokens)

    def decoded(self, request: Request) -> Reply:
        return Reply(json={"prompt": self._text(request.json()["tokens"])})

    def reply(self, request: Request) -> Reply:
        body = request.json()
        start = len(body["prompt"]) - len(PROMPT_IDS) if isinstance(body["prompt"], list) else 0
        parts: list[Part] = []
        for token in range(start, min(self._count, start + body["max_tokens"])):
            if (end := self._breaks(token)) is not None:
                return stream(*parts, *end)
            reason = "stop" if token == self._count - 1 else None
            ids = [] if token % self._every else [token]
            parts.append(piece(f" {token}", reason, token_ids=ids, prompt_token_ids=PROMPT_IDS))
        return stream(*parts, END)


def test_a_stream_killed_at_random_moments_is_never_doubled_nor_called_done(
    server: FakeServer, subtests: pytest.Subtests
) -> None:
    engine = engine_of(server, may_resume=False)
    whole = [f" {number}" for number in range(20)]
    for seed in range(30):
        with subtests.test(seed=seed):
            chance = random.Random(seed)
            body = b"".join(piece(text, "stop" if text == " 19" else None) + b"\n\n" for text in whole)
            size = chance.randrange(len(body))
            # What comes after the last event's reason is not needed.
            head = {"Content-Type": "text/event-stream"}
            server.add(PATH, Reply(parts=[body[:size], 0.002, chance.choice((CUT, RESET))], headers=head))
            text, end = generated(engine)
            assert "".join(whole).startswith(text) and isinstance(end, Failed)
            assert text.count(" 0") <= 1 and isinstance(end.error, ServerLost)
    engine.close()


def test_a_lost_stream_goes_on_once_and_the_text_is_as_if_undisturbed(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    whole = "".join(f" {number}" for number in range(20))
    for seed in range(10):
        with subtests.test(seed=seed):
            chance = random.Random(seed)
            left = [(chance.randrange(1, 20), chance.choice(([0.01, CUT], [0.01, RESET], [], [data({"error": "x"})])))]
            Numbers(server, 20, lambda token, left=left: left.pop()[1] if left and left[0][0] == token else None)
            text, done = generated(engine, stops=["x"])
            assert text == whole and isinstance(done, Done)
            assert (done.prompt_tokens, done.completion_tokens) == (2, 20)
    Numbers(server, 20, lambda token: [0.01, CUT] if token in (5, 9) else None)
    text, failed = generated(engine)
    assert whole.startswith(text) and isinstance(failed, Failed) and isinstance(failed.error, ServerLost)


def test_the_ids_of_a_server_that_leaves_some_out_are_found_by_the_text(
    server: FakeServer, engine: ServedEngine
) -> None:
    cuts = [[0.01, CUT]]
    Numbers(server, 20, lambda token: cuts.pop() if cuts and token == 7 else None, every=2)
    server.add("/tokenize", lambda request: Reply(json={"tokens": [int(n) for n in request.json()["prompt"].split()]}))
    text, done = generated(engine)
    assert text == "".join(f" {number}" for number in range(20)) and isinstance(done, Done)


def test_a_resumed_answer_keeps_to_its_limit(server: FakeServer, engine: ServedEngine) -> None:
    cuts = [[0.01, CUT]]
    Numbers(server, 50, lambda token: cuts.pop() if cuts and token == 6 else None)
    text, end = generated(engine, max_new_tokens=10)
    assert text == "".join(f" {number}" for number in range(10))
    assert server.requests[-1].json()["max_tokens"] == 4 and isinstance(end, Failed)  # the fake sends no reason


def lost_after(count: int, ids: int) -> Reply:
    """Return a stream that breaks after the texts of `count` numbers and the ids of `ids`."""
    texts = [f" {number}" if number < count else "" for number in range(ids)]
    pieces = [piece(text, token_ids=[n], prompt_token_ids=PROMPT_IDS) for n, text in enumerate(texts)]
    return stream(*pieces, 0.01, CUT)


def test_text_that_the_server_held_back_is_not_lost_with_its_stream(server: FakeServer, engine: ServedEngine) -> None:
    numbers = Numbers(server, 8, lambda token: None)
    server.add(PATH, lost_after(count=3, ids=5), numbers.reply)
    text, done = generated(engine)
    assert text == " 0 1 2 3 4 5 6 7" and isinstance(done, Done)
    assert server.requests[-1].json()["prompt"] == [*PROMPT_IDS, 0, 1, 2, 3, 4]


def test_a_lost_answer_is_an_error_where_it_cannot_go_on(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    numbers = Numbers(server, 8, lambda token: None)
    for name, limit, answer, generations in (
        ("its tokens do not stand for its text", 1000, Reply(json={"prompt": "other"}), 1),
        ("the server no longer decodes", 1000, Reply(400, json={"error": "no"}), 1),
        ("all tokens have come, but not why it ended", 3, numbers.decoded, 1),
        ("the server refuses the rest", 1000, numbers.decoded, 2),
    ):
        with subtests.test(name):
            server.requests.clear()
            server.add(PATH, lost_after(count=3, ids=3), Reply(400, json={"error": "no"}))
            server.add("/detokenize", answer)
            text, failed = generated(engine, max_new_tokens=limit)
            assert text == " 0 1 2" and isinstance(failed, Failed) and type(failed.error) is ServerLost
            assert sum(request.path == PATH for request in server.requests) == generations


def test_a_lost_answer_goes_on_although_the_server_is_busy_at_first(server: FakeServer, engine: ServedEngine) -> None:
    numbers = Numbers(server, 8, lambda token: None)
    server.add(PATH, lost_after(count=3, ids=3), numbers.reply)
    server.add("/detokenize", Reply(503), numbers.decoded)
    text, done = generated(engine)
    assert text == " 0 1 2 3 4 5 6 7" and isinstance(done, Done)


def test_what_depends_on_the_answer_so_far_is_not_resumed(
    server: FakeServer, engine: ServedEngine, subtests: pytest.Subtests
) -> None:
    for raw in ({"presence_penalty": 0.5}, {"repetition_penalty": 1.1}, {"grammar_string": 'root ::= "x"'}):
        with subtests.test(raw=raw):
            cuts = [[0.01, CUT]]
            Numbers(server, 20, lambda token, cuts=cuts: cuts.pop() if cuts and token == 6 else None)
            text, failed = generated(engine, **raw)
            assert text == " 0 1 2 3 4 5" and isinstance(failed, Failed)
