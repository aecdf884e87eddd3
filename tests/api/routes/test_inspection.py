"""Endpoints that ask the model about texts and tokens."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import pytest
from fastapi.routing import APIRoute

from modules.api.routes import inspection, models, server_info
from modules.api.state import ApiState
from modules.app import App
from tests.support.say import say_plan
from tests.support.serving import server_of

ASKING = (
    *("/internal/encode", "/internal/decode", "/internal/token-count"),
    *("/internal/logits", "/tokenize", "/detokenize"),
)


@pytest.mark.parametrize("path", ASKING)
def test_questions_to_the_model_hold_no_thread(make_app: Callable[..., App], path: str) -> None:
    """A long text takes seconds. All chats need the threads, of which there are six on two cores."""
    state = ApiState(make_app())
    routers = (models.routes(state), inspection.routes(state), server_info.root_routes(state))
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    (endpoint,) = (route.endpoint for route in routes if route.path == path)
    assert inspect.iscoroutinefunction(endpoint)
    for function in (endpoint, models._ask, inspection._logits):
        assert "to_thread" not in inspect.getsource(function)


def test_an_engine_that_lists_no_candidates_says_so(make_app: Callable[..., App]) -> None:
    app = make_app("--api")
    plan = say_plan()
    limited = dataclasses.replace(plan.loader, abilities=plan.loader.abilities - {"next"})
    app.models.load(dataclasses.replace(plan, loader=limited))
    with server_of(app) as server:
        error = server.refusal("/internal/logits", {"prompt": "Hello"})
    assert (error["status"], error["code"]) == (400, "unsupported")
    assert error["message"] == "The loader say cannot list candidates for the next token."
