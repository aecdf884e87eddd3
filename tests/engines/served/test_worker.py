"""A worker whose model runs on a server: its requests stay texts, and the parent knows whether the server answers."""

from __future__ import annotations

import queue

import pytest

from modules.core.errors import Unsupported
from modules.core.events import ENDS, Done, Event, Failed, Result, Text
from modules.core.prompt import Prompt
from modules.core.request_route import HEADER, program
from modules.core.server_errors import ServerLost
from modules.loaders.generation_settings import resolve
from modules.runtime.worker_process import WorkerProcess
from tests.support.echo_plans import wait_until
from tests.support.fake_server import CUT, STALL, FakeServer, Reply, data, stream

PATH = "/v1/completions"
ROUTE, OTHER_PROGRAM = HEADER.lower(), "0123456789abcdef"
MODELS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 1000}]}


class Call:
    """A call and its events."""

    def __init__(self, worker: WorkerProcess, operation: str, **args: object) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.number = worker.start(operation, self._events.put, **args)

    def next_event(self) -> Event:
        return self._events.get(timeout=4)

    def end(self) -> Event:
        while not isinstance(event := self.next_event(), ENDS):
            pass
        return event


def generate(worker: WorkerProcess, text: str = "x", **args: object) -> Call:
    params = resolve({"max_new_tokens": 100, "presence_penalty": 0.1})
    return Call(worker, "generate", prompt=Prompt(text).to_json(), params=params, **args)


def piece(text: str, reason: str | None = None) -> bytes:
    return data({"choices": [{"text": text, "finish_reason": reason}]})


@pytest.mark.works("streaming", "concurrent", loader="Remote")
@pytest.mark.works("streaming", "concurrent", loader="vLLM")
def test_a_worker_hands_texts_to_a_server_and_says_whether_it_answers(worker: WorkerProcess) -> None:
    with FakeServer() as server:
        server.add("/v1/models", Reply(json=MODELS))
        server.add("/tokenize", Reply(json={"tokens": [1, 2, 3]}))
        options = {"server_url": server.url}
        loading = Call(
            worker, "load", engine="tests.support.served_loader", path="models/m.server.yaml", options=options
        )
        loaded = loading.end()
        assert isinstance(loaded, Result) and loaded.value["context_length"] == 1000

        server.add(PATH, stream(piece("one"), STALL), stream(piece("two"), 0.01, CUT), stream(piece("three", "stop")))
        stalled = generate(worker)
        assert stalled.next_event() == Text("one")
        lost = generate(worker)
        assert lost.next_event() == Text("two")
        failed = lost.end()
        assert isinstance(failed, Failed) and isinstance(failed.error, ServerLost)
        assert isinstance(generate(worker, passed=[OTHER_PROGRAM]).end(), Done)
        assert server.requests[-1].headers[ROUTE] == f"{OTHER_PROGRAM},{program()}"
        # while another one is under way
        assert Call(worker, "count", text="a b c", passed=[OTHER_PROGRAM]).end() == Result(3)
        assert server.requests[-1].headers[ROUTE] == f"{OTHER_PROGRAM},{program()}"
        assert {request.headers[ROUTE] for request in server.requests[:-2]} == {program()}
        with pytest.raises(Unsupported, match="next"):
            worker.call("next", prompt=Prompt("x").to_json(), params={})
        worker.cancel(stalled.number)
        assert server.wait_for(lambda: len(server.gone) == 1)

        server.add("/health", Reply(503))
        wait_until(lambda: not worker.is_server_reachable)
        server.add("/health", Reply(json={}))
        wait_until(lambda: worker.is_server_reachable)
