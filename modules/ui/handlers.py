"""Attach handlers to the events of the page, and answer its own routes: what turns errors of every kind into words."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial, wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modules.app import App
from modules.conversations.exporters.export import ExportedFile
from modules.core.errors import InternalError, WebUIError
from modules.core.product import LOG_FILE
from modules.runtime.status import Status
from modules.ui.gradio_import import gradio
from modules.ui.locales import Tr, supported, translator
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()
log = logging.getLogger(__name__)

Values = Mapping[Any, Any]
"""What a handler receives if it reads a set of components: their values, by component."""

Updates = dict[Any, Any]
"""What a handler returns: new values or `gr.update`s, by component. Never empty, which Gradio takes for an error."""

Handler = Callable[..., Any]
"""A function, a coroutine function or an asynchronous generator function. Gradio runs plain functions in threads."""

STALE_MENU: dict[str, Any] = {"preprocess": False}
"""For handlers that read a menu which may have lost the choice still shown in it: Gradio would refuse to call them."""

Options = dict[str, Any]
"""Keyword arguments of `Page.on` shared by several handlers."""

_PRIVATE = {"show_progress": "hidden", "api_visibility": "private"}
"""Gradio's own progress would dim what it covers. "private" only hides a handler: everybody can still call it."""


class Page:
    """What all parts of the page in one language share: the application, the texts, and `on`."""

    def __init__(self, app: App, language: str) -> None:
        self.app, self.language = app, language
        self.tr: Tr = translator(language)
        self.owner = not app.flags.on("multi_user")
        """Whether whoever uses the page may change the model and what is saved."""

    @property
    def status(self) -> Status:
        """The state of the model in use; of one on a server, guests get its name instead of the address."""
        status = self.app.models.status
        return status if self.owner or not status.address else dataclasses.replace(status, address=status.name)

    def on(
        self,
        event: Any,
        handler: Handler,
        reads: Any,
        writes: Sequence[Component],
        *,
        alert: Component | None = None,
        failed: Callable[[WebUIError], Updates] | None = None,
        owner_only: bool = False,
        **options: Any,
    ) -> Any:
        """Run `handler` on `event`, or on each of a list of events; return Gradio's dependency, to chain others to.

        `reads` is a list of components, whose values become arguments, or a set, whose values come as one `Values`.
        An error is shown as an alert in the component `alert`, or by the updates that `failed` returns; without either,
        nothing changes on the page. Updates that a generator yielded before its error stay. With `owner_only`, the call
        fails with OwnerOnly if the server was started with --multi-user. `options` are Gradio's: `queue`, `js`,
        `cancels`, `concurrency_limit` …
        """
        attach = partial(gr.on, event) if isinstance(event, list) else event
        after_error = failed or (lambda error: self._after_error(error, alert, writes))
        guarded = _inspected(_guarded(handler, after_error, self.app.refuse_guests if owner_only else _allow))
        return attach(fn=guarded, inputs=reads, outputs=writes, **_PRIVATE, **options)

    def _after_error(self, error: WebUIError, alert: Component | None, writes: Sequence[Component]) -> Updates:
        if alert is not None:
            return {alert: self.alert(error)}
        return dict.fromkeys(writes, gr.skip())

    def alert(self, error: BaseException) -> str:
        """Render an error in the language of the page."""
        return messages.alert(as_error(error), self.language, self.tr)

    def info(self, key: str, **values: object) -> str:
        """Render the text `key` of locales.py as a status message."""
        return messages.info(self.tr(key).format(**values))


def in_browser(event: Any, script: str, reads: Component) -> None:
    """Run `script` in the browser on `event`, with the value of `reads`. The server is not asked."""
    event(fn=None, inputs=reads, js=script, show_progress="hidden")


def as_error(error: BaseException) -> WebUIError:
    """Return `error` if it is meant for users; log any other with its traceback and return an InternalError."""
    if isinstance(error, WebUIError):
        return error
    log.error("a handler of the page failed", exc_info=error)
    return InternalError(LOG_FILE)


def _guarded(handler: Handler, failed: Callable[[WebUIError], Updates], check: Callable[[], None]) -> Handler:
    """Return `handler` with its errors turned into updates: a function of the same kind, by which Gradio runs it.

    `check` is called first; it refuses the call by raising.
    """
    if inspect.isasyncgenfunction(handler):

        @wraps(handler)
        async def stream(*args: Any) -> AsyncIterator[Any]:
            errors: list[WebUIError] = []
            with _caught(errors):
                check()
                async with aclosing(handler(*args)) as updates:
                    async for update in updates:
                        yield update
            for error in errors:
                yield failed(error)

        return stream

    if inspect.iscoroutinefunction(handler):

        @wraps(handler)
        async def wait(*args: Any) -> Any:
            errors: list[WebUIError] = []
            with _caught(errors):
                check()
                return await handler(*args)
            return failed(errors[0])

        return wait

    @wraps(handler)
    def call(*args: Any) -> Any:
        errors: list[WebUIError] = []
        with _caught(errors):
            check()
            return handler(*args)
        return failed(errors[0])

    return call


def _inspected(handler: Handler) -> Handler:
    """Store the signature of `handler`, with the annotations that Gradio looks for, such as `gr.EventData`, alone.

    Gradio reads both six times, which would take half of the time in which the page is built.
    """
    handler.__signature__ = inspect.signature(handler)  # type: ignore[attr-defined]
    hints = handler.__annotations__
    handler.__annotations__ = {name: hint for name, hint in hints.items() if "gr." in str(hint)}
    return handler


def _allow() -> None:
    """Check nothing: everybody may call the handler."""


@contextmanager
def _caught(errors: list[WebUIError]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        errors.append(as_error(error))


# -- the page's own routes ---------------------------------------------------------------------------------------------


class ErrorRoute(APIRoute):
    """The edge of the page's own routes: errors become {"error": text} in the language of the query."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                problem = error.errors()[0]
                return _error_body(HTTPStatus.BAD_REQUEST, f"{problem['loc'][-1]}: {problem['msg']}")
            except Exception as error:
                known = as_error(error)
                return _error_body(known.status, known.say(language_of(request)))

        return answer


def _error_body(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def download(file: ExportedFile) -> Response:
    """Return the answer by which a browser saves a file."""
    disposition = f"attachment; filename*=UTF-8''{quote(file.name)}"
    headers = {"Content-Disposition": disposition, "Cache-Control": "no-store"}
    return Response(file.data, media_type=file.media_type, headers=headers)


def language_of(request: Request) -> str:
    """Return the language that the query asks for."""
    return supported(request.query_params.get("lang", ""))
