"""Endpoints that ask the model about texts and tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from fastapi.routing import APIRoute

from modules.api.routes import inspection, models, server_info
from modules.api.state import ApiState
from modules.app import App

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
