"""Requests of the API take the short way, and find the same endpoints as by the long one."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from modules.api.app import ApiFirst, GenerationFirst
from modules.core.errors import OptionError


async def endpoint(request: Request) -> Response:
    return JSONResponse({"path": request.url.path, "rest": request.path_params.get("rest", "")})


async def page(request: Request) -> Response:
    return JSONResponse({"page": request.url.path})


def test_only_requests_below_v1_skip_the_server_and_both_ways_lead_to_the_same_endpoint() -> None:
    mounted = Mount("/v1", Starlette(routes=[Route("/models/{rest:path}", endpoint)]))
    server = Starlette(routes=[mounted, Route("/{rest:path}", page)])
    beside = Starlette(routes=[Route("/{rest:path}", page)])  # a server without the API
    short, long = TestClient(ApiFirst(beside, mounted)), TestClient(server)
    for path in ("/v1/models/a/b", "/v1/models/"):
        assert short.get(path).json() == long.get(path).json()
    assert short.get("/v1/absent").status_code == 404
    for path in ("/", "/v10/models/a", "/page/v1/models/a"):
        assert short.get(path).json() == {"page": path}


async def refusing(request: Request) -> Response:
    raise OptionError("n", await request.json(), {"en": "a number", "zh": "数字"})


def test_requests_that_generate_pass_by_the_middleware_of_the_others() -> None:
    routes = [Route("/completions", refusing, methods=["POST"])]
    others = Starlette(routes=[*routes, Route("/{rest:path}", endpoint, methods=["GET", "PUT"])])
    client = TestClient(Starlette(routes=[Mount("/v1", GenerationFirst(others, routes))]))
    refused = client.post("/v1/completions", json="many")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "n"
    assert client.put("/v1/completions").json()["rest"] == "completions"
    assert client.get("/v1/models").json()["rest"] == "models"
    assert client.post("/v1/v1/completions").status_code == 405
