"""The routes that the page's script calls to evaluate perplexity. All are the owner's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import Field
from starlette.requests import Request

from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.core.errors import Words
from modules.core.events import Json
from modules.evaluation.request import MAX_SUBJECTS, EvaluationRequest, Subject
from modules.evaluation.state import RunState, SubjectState
from modules.evaluation.summary import evaluation_json
from modules.evaluation.wikitext import NAME, fetch_wikitext
from modules.options.evaluation import EVALUATION
from modules.ui.charts import Labels, Series, line_chart
from modules.ui.handlers import ErrorRoute, language_of
from modules.ui.locales import translator
from modules.ui.sent_values import Body
from modules.ui.training.estimate import estimate
from modules.ui.training.fields import field_json
from modules.ui.training.perplexity_results import chart, compare_rows, row_json

Name = Annotated[str, Field(max_length=4096)]  # one outside the folder of models is a path
Id = Annotated[str, Field(max_length=100)]
SHIPPED = {"alice-in-wonderland.txt": "pp_note_alice", "journey-to-the-west.txt": "pp_note_journey"}


class SubjectBody(Body):
    """A model; "" is the one that is loaded. Without `loras`, those saved for it are applied."""

    model: Name = ""
    loras: Annotated[dict[Name, float] | None, Field(max_length=32)] = None


class Wanted(Body):
    text: Name
    subjects: Annotated[list[SubjectBody], Field(min_length=1, max_length=MAX_SUBJECTS)]
    options: Annotated[dict[str, Any], Field(max_length=len(EVALUATION))]
    may_unload: bool = False
    skip_tested: bool = False

    def request(self) -> EvaluationRequest:
        """Return the evaluation that is wanted. Raises OptionError or UnknownOption."""
        subjects = tuple(Subject(one.model, loras=one.loras) for one in self.subjects)
        return EvaluationRequest.parse(self.text, subjects, self.options, self.may_unload, self.skip_tested)


class Identified(Body):
    id: Id


class Comments(Body):
    comments: Annotated[dict[Id, Annotated[str, Field(max_length=2000)]], Field(max_length=1000)]


class Chosen(Body):
    """Rows of the table: without any, the newest ones of one text are drawn."""

    ids: Annotated[list[Id], Field(max_length=1000)]


def add_routes(server: FastAPI, app: App) -> None:
    """Add the routes under /perplexity."""
    owner = [Depends(app.refuse_guests)]
    router = APIRouter(prefix="/perplexity", route_class=ErrorRoute, include_in_schema=False, dependencies=owner)
    _add_form(router, app)
    _add_runs(router, app)
    _add_results(router, app)
    server.include_router(router)


def _add_form(router: APIRouter, app: App) -> None:
    @router.get("/form")
    def form(request: Request) -> Json:
        language = language_of(request)
        fields = [field_json(option, language) for option in EVALUATION.values()]
        return {"fields": fields, **_lists(app, language)}

    @router.post("/wikitext")
    def wikitext(request: Request) -> Json:
        """Fetch WikiText-2 through the mirrors of downloads."""
        fetch_wikitext(app.mirrors, app.texts.folder)
        return _lists(app, language_of(request))


def _lists(app: App, language: str) -> dict[str, Json]:
    """Return the texts, models and LoRAs to choose from, and the name of the loaded model."""
    tr = translator(language)
    texts = [
        {"name": file.name, "size": file.size, "note": tr(SHIPPED.get(file.name) or _note_key(file.name))}
        for file in app.texts.files()
    ]
    return {
        "texts": texts,
        "folder": str(app.texts.folder),
        "has_wikitext": any(text["name"] == NAME for text in texts),
        "models": [one.name for one in app.selectable_models() if one.problem is None and not one.task],
        "loras": [one.name for one in app.loras.catalog.all(LIST_SECONDS) if one.problem is None],
        "loaded": app.models.status.name if app.models.status.state == "ready" else "",
    }


def _note_key(name: str) -> str:
    return "pp_note_wikitext" if name == NAME else "pp_note_own"


def _add_runs(router: APIRouter, app: App) -> None:
    @router.post("/estimate")
    def estimated(body: Wanted) -> Json:
        """Return about how long an evaluation takes, and whether its models fit in memory."""
        return estimate(app, body.request())

    @router.post("/start")
    def start(body: Wanted) -> Json:
        return {"id": app.evaluations.start(body.request())}

    @router.post("/stop")
    def stop(body: Identified) -> Json:
        app.evaluations.stop(body.id)
        return {}

    @router.get("/runs")
    def runs(request: Request, run: Annotated[str, Query(max_length=100)] = "", drawn: int = -1) -> Json:
        """Return all runs, and the curves of `run` unless it has `drawn` scored windows as before."""
        language = language_of(request)
        states = app.evaluations.state
        body: dict[str, Json] = {
            "runs": [run_json(state, language, app.evaluations.waiting_for(state.id)) for state in states]
        }
        shown = next((state for state in states if state.id == run), None)
        if shown is not None and (done := sum(subject.done for subject in shown.subjects)) != drawn:
            body |= {"drawn": done, "curves": curves(shown.subjects, language)}
        return body


def run_json(state: RunState, language: str, waiting: Words | None = None) -> dict[str, Json]:
    """Return a run as the page shows it; `waiting` says what has to end first."""
    wanted = state.request
    return {
        "id": state.id,
        "state": state.phase,
        "ended": state.has_ended,
        "text": wanted.text,
        "method": wanted.method,
        "kl": wanted.kl,
        "seconds": round(state.seconds, 1),
        "waiting": waiting[language] if waiting else "",
        "subjects": [_subject_json(subject, language) for subject in state.subjects],
    }


def _subject_json(state: SubjectState, language: str) -> dict[str, Json]:
    result, loras = state.result, state.subject.loras
    return {
        "model": result.model if result else state.subject.model,
        "loras": dict(result.loras) if result else None if loras is None else dict(loras),
        "state": state.phase,
        "done": state.done,
        "total": state.total,
        "perplexity": state.perplexity if state.done and 0 < state.perplexity < 1e300 else None,
        "error": state.error.say(language) if state.error else "",
        "tested": bool(state.tested),
        "result": evaluation_json(result, language) if result else None,
    }


def curves(subjects: Sequence[SubjectState], language: str) -> str:
    """Render the perplexity after each window, model by model; "" before the second window of the first one."""
    tr = translator(language)
    series = [
        Series(_series_name(one, tr("pp_loaded")), [(float(x), y) for x, y in enumerate(one.curve, 1)])
        for one in subjects
        if len(one.curve) > 1
    ]
    if not series:
        return ""
    labels = Labels(tr("pp_curve"), tr("pp_curve_about"), x=tr("pp_windows_axis"), y=tr("perplexity"))
    return line_chart(series, labels, tr)


def _series_name(state: SubjectState, loaded: str) -> str:
    loras = state.result.loras if state.result else state.subject.loras or {}
    name = state.result.model if state.result else state.subject.model or loaded
    return " + ".join([name, *loras])


def _add_results(router: APIRouter, app: App) -> None:
    results = app.evaluations.results

    @router.get("/results")
    def listed() -> Json:
        rows = results.rows()
        return {"rows": [row_json(row, rows) for row in rows]}

    @router.post("/comments")
    def comment(body: Comments) -> Json:
        results.set_comments(body.comments)
        return {}

    @router.post("/chart")
    def drawn(request: Request, body: Chosen) -> Json:
        """Draw the rows with these ids, and the comparison if these are two."""
        tr, rows = translator(language_of(request)), results.rows()
        chosen = [row for row in rows if row.id in body.ids]
        if len(chosen) == 2:
            return {
                "chart": chart(chosen, tr),
                "comparison": compare_rows(chosen[1], chosen[0], rows, tr, app.evaluations.tokens.compare),
            }
        shown = chosen or [row for row in rows if rows and row["Dataset"] == rows[-1]["Dataset"]]
        return {"chart": chart(shown, tr), "comparison": ""}
