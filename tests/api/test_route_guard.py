"""A model whose server is this program, or leads back to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from modules.api.route_guard import RouteGuard
from modules.app import App
from modules.core.request_route import HEADER, passed, program
from modules.core.server_errors import ServerIsOurs
from modules.engines.remote.examination import examine
from tests.support.serving import api_of

OTHER = "0123456789abcdef"


async def tell(request: Request) -> Response:
    return JSONResponse(passed())


@pytest.fixture
def http() -> TestClient:
    return TestClient(RouteGuard(Starlette(routes=[Route("/{path:path}", tell)])))


def test_a_request_that_comes_back_is_refused_in_the_format_of_its_api(http: TestClient) -> None:
    refused = http.get("/v1/models", headers={HEADER: f"{program()},{OTHER}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (508, "request_loops")
    refused = http.post("/v1/messages", headers={HEADER: program(), "Accept-Language": "zh"})
    assert refused.status_code == 508 and "又回到了本程序" in refused.json()["error"]["message"]


def test_a_request_of_another_program_is_served_and_remembered(http: TestClient) -> None:
    assert http.get("/v1/models", headers={HEADER: OTHER}).json() == [OTHER]
    assert http.get("/v1/models").json() == []


def test_the_address_of_this_program_is_no_server_for_a_model(make_app: Callable[..., App]) -> None:
    for flags in ((), ("--api-key", "secret")):
        with api_of(make_app(*flags)) as address, pytest.raises(ServerIsOurs, match="leads back to this program"):
            examine(f"{address}/v1", "")
