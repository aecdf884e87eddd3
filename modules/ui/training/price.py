"""The routes that the page's script calls to measure the price of an option. All are the owner's alone."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import Field
from starlette.requests import Request

from modules.app import App
from modules.core.events import Json
from modules.evaluation.price_errors import PriceNotFound
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_result import PriceResult
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.price import PAIRS, QUICK_PAIRS, is_priced
from modules.ui.handlers import ErrorRoute, language_of
from modules.ui.locales import translator
from modules.ui.sent_values import Body
from modules.ui.training.fields import field_json
from modules.ui.training.price_view import progress_html, result_html, result_json, run_json, short_text

Name = Annotated[str, Field(max_length=4096)]
Id = Annotated[str, Query(max_length=100)]


class Wanted(Body):
    key: Annotated[str, Field(max_length=100)]
    a: Name
    b: Name
    model: Name = ""
    loader: Name = ""
    options: Annotated[dict[str, Any], Field(max_length=len(OPTIONS))] = Field(default_factory=dict)
    pairs: int = PAIRS.default  # type: ignore[assignment]
    text: Name = ""
    may_unload: bool = False


class Identified(Body):
    id: Annotated[str, Field(max_length=100)]


def add_routes(server: FastAPI, app: App) -> None:
    """Add the routes under /price."""
    owner = [Depends(app.refuse_guests)]
    router = APIRouter(prefix="/price", route_class=ErrorRoute, include_in_schema=False, dependencies=owner)
    _add_runs(router, app)
    _add_results(router, app)
    server.include_router(router)


def _add_runs(router: APIRouter, app: App) -> None:
    prices = app.prices

    @router.get("/form")
    def form(request: Request) -> Json:
        """Return the options by loader, and the models, loaders and texts to choose from."""
        language = language_of(request)
        usable = (one for one in app.selectable_models() if one.problem is None and not one.task)
        models = [one.name for one in usable if one.server is None]  # a server's options cost nothing here
        return {
            "options": [field_json(option, language) for option in OPTIONS.values() if is_priced(option)],
            "loaders": {
                loader.name: [key for key in loader.options if key in OPTIONS]
                for loader in LOADERS.values()
                if not loader.elsewhere
            },
            "models": models,
            "texts": [file.name for file in app.texts.files()],
            "pairs": {"full": PAIRS.default, "quick": QUICK_PAIRS},
            "residents": prices.residents(),
        }

    @router.post("/start")
    def start(body: Wanted) -> Json:
        wanted = PriceRequest.parse(
            body.key, body.a, body.b, body.model, body.loader, body.options, body.pairs, body.text, body.may_unload
        )
        return {"id": prices.start(wanted)}

    @router.post("/stop")
    def stop(body: Identified) -> Json:
        prices.stop(body.id)
        return {}

    @router.get("/runs")
    def runs(request: Request, run: Id = "", drawn: str = "") -> Json:
        """Return all measurements, and what `run` shows so far unless it is what `drawn` names."""
        language, states = language_of(request), prices.state
        body: dict[str, Json] = {
            "runs": [run_json(state, language, prices.waiting_for(state.id)) for state in states],
            "residents": prices.residents(),
        }
        shown = next((state for state in states if state.id == run), None)
        if shown is not None:
            version = f"{len(shown.pairs)} {shown.phase}"
            if version != drawn:
                html = result_html(shown.result, language) if shown.result else progress_html(shown, language)
                body |= {"drawn": version, "html": html}
        return body


def _add_results(router: APIRouter, app: App) -> None:
    results = app.prices.results

    @router.get("/results")
    def listed(model: Annotated[str, Query(max_length=4096)] = "") -> Json:
        """Return the kept prices, the newest first; of one model, if it is named."""
        found = results.of(model) if model else results.all()
        return {"results": [result_json(result) for result in reversed(found)]}

    @router.get("/result")
    def result(request: Request, id: Id) -> Json:
        found = next((one for one in results.all() if one.id == id), None)
        if found is None:
            raise PriceNotFound(id)
        return {"html": result_html(found, language_of(request))}

    @router.get("/kept")
    def kept(
        request: Request,
        model: Annotated[str, Query(max_length=4096)],
        loader: Annotated[str, Query(max_length=100)] = "",
    ) -> Json:
        """Return the newest price of each option of a model in one line, with its id."""
        tr, newest = translator(language_of(request)), dict[str, PriceResult]()
        for one in results.of(model, loader=loader):
            newest[one.key] = one
        return {"kept": {key: {"id": one.id, "text": short_text(one, tr)} for key, one in newest.items()}}
