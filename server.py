"""Entry point: `python server.py [flags]` serves the page and the API on one port."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modules.app import App
from modules.cli import first_load, model_menu, perplexity, price, rpc_server, train
from modules.config import flags as command_line
from modules.config.flag_lines import with_flags_file
from modules.config.flags_file import FlagsFile
from modules.core.errors import WebUIError, Words
from modules.core.product import FLAGS_FILE, LOG_FILE
from modules.loaders.registry import RPC, find_loader
from modules.planning.load_request import LoadRequest
from modules.setup import install
from modules.setup.overlay_installer import OverlayInstaller
from modules.system.garbage_collection import pause_collection, spare_permanent_objects
from modules.system.listener import listening_socket
from modules.system.log_file import LogFile, unwritable
from modules.system.open_files import allow_open_files
from modules.system.terminal import SafeStream, prepare_streams, terminal_language

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ROOT = Path(__file__).resolve().parent
log = logging.getLogger("server")


def main(arguments: list[str]) -> int:
    """Run until stopped and return the exit status.

    0 on success, 2 with one sentence on stderr if the server cannot start, 130 if it was interrupted before it started.
    """
    prepare_streams()
    language = terminal_language()
    try:
        flags = command_line.parse(with_flags_file(ROOT / FLAGS_FILE, arguments))
        for warning in flags.warnings:
            print(warning[language], file=sys.stderr)
        if flags.text("rpc_server"):
            rpc_server.run(flags, language)
        if flags.text("install").lower() == RPC.name:
            install.wait_for_rpc(language, OverlayInstaller())
            return 0
        if flags.text("install"):
            install.wait(find_loader(flags.text("install")), language, OverlayInstaller())
            return 0
        app = App(flags, ROOT / "cache" / "catalog.json")
        app = model_menu.choose_model(app, language) if flags.on("model_menu") else app
        if flags.on("explain"):
            print(json.dumps(explain(app), indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"), flush=True)
            return 1 if isinstance(sys.stdout, SafeStream) and sys.stdout.broken else 0
        if flags.text("perplexity"):
            return perplexity.run(app, language)
        if flags.text("price"):
            return price.run(app, language)
        if flags.text("train"):
            return train.run(app, language)
        start_log(flags.on("verbose"))
        if app.settings.notice is not None:
            log.warning("%s", app.settings.notice[language])
        serve(app, arguments)
        if app.restart.requested:
            app.restart.replace_process()
    except WebUIError as error:
        print(error.say_elsewhere(language), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print({"en": "Stopped.", "zh": "已停止。"}[language], file=sys.stderr)
        return 130
    return 0


def explain(app: App) -> object:
    """Return the plan for the model of `--model`, or for the first model."""
    record = app.named_model or next(iter(app.catalog.models()), None)
    if record is None:
        return app.catalog.find("")  # raises ModelNotFound
    return app.loading.explain(app.planner.plan(LoadRequest(record)))


def start_log(verbose: bool) -> None:
    """Log everything to a file, and to the terminal what a user should see."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    terminal.setFormatter(BriefFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal])
    try:
        logging.getLogger().addHandler(LogFile(ROOT / LOG_FILE))
    except OSError as error:
        log.warning("%s", unwritable(ROOT / LOG_FILE, error))
    logging.getLogger("worker").setLevel(logging.DEBUG)
    for verbose_logger in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(verbose_logger).setLevel(logging.WARNING)


class BriefFormatter(logging.Formatter):
    """Writes errors in the terminal's language, and leaves the traceback out of records that are marked as `brief`."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and any(isinstance(fact, WebUIError) for fact in record.args):
            language = terminal_language()
            facts = [fact.say_elsewhere(language) if isinstance(fact, WebUIError) else fact for fact in record.args]
            record = logging.makeLogRecord({**vars(record), "args": tuple(facts)})
        if getattr(record, "brief", False):
            record = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None})
        return super().format(record)


def build(app: App) -> ASGIApp:
    """Create the application with the page, the API and the health check, behind its login."""
    from fastapi import FastAPI

    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @server.get("/healthz", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": app.models.status.state}

    mounted, has_own_guard = None, None
    if app.flags.on("api") or app.flags.on("nowebui"):
        from modules.api.app import ApiFirst, mount_api
        from modules.api.root_paths import is_api_path

        mounted, has_own_guard = mount_api(server, app), is_api_path
    built: ASGIApp = server
    if not app.flags.on("nowebui"):
        from modules import ui

        ui.attach(server, app)
        built = ui.protect(server, app, has_own_guard)
    return built if mounted is None else ApiFirst(built, mounted)


def serve(app: App, arguments: Sequence[str]) -> None:
    """Serve until Ctrl-C, then stop downloads and installations and unload the model."""
    pause_collection()
    import uvicorn

    from modules.api.host_guard import guard
    from modules.api.http_protocol import KEEP_ALIVE_SECONDS, MAX_OPEN_FILES, protocol_for
    from modules.api.limits import BodyLimit

    listener = listening_socket(*app.flags.address)
    config = uvicorn.Config(
        guard(BodyLimit(build(app)), app),
        http=protocol_for(allow_open_files(MAX_OPEN_FILES)),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        # Otherwise any program on this machine could claim a new address for every guess at a password.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
    )
    server = uvicorn.Server(config)
    app.flags_file = FlagsFile(ROOT / FLAGS_FILE, arguments)
    app.restart.offer(ROOT / "server.py", arguments, partial(setattr, server, "should_exit", True))
    # Streams of open pages end only by being cut off; uvicorn would log a traceback for each.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    first_load.expect(app)
    threading.Thread(target=announce, args=(server, app, listener), daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        app.restart.requested = False  # uvicorn has shut down cleanly before it raises this
    finally:
        app.preparation.close()
        app.downloads.close()
        app.overlays.close()
        app.runs.close()
        app.notebook_runs.close()
        app.evaluations.close()
        app.training.runs.close()
        app.prices.close()
        app.templates.close()
        app.models.close()
        if not app.flags.on("nowebui"):
            from modules import ui

            ui.close()


def announce(server: object, app: App, listener: socket.socket) -> None:
    """Wait until the server has started, print its address and load the first model.

    Warns if it is open to the network without a password. Scans the models in the background, so that the first page
    need not wait for it.
    """
    while not getattr(server, "started", False):
        threading.Event().wait(0.02)
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    chinese = terminal_language() == "zh"
    print(f"已就绪：{url}" if chinese else f"Ready: {url}", flush=True)
    spare_permanent_objects()
    app.catalog.models(0)  # starts a scan, and waits for nothing
    threading.Thread(target=app.sweep, daemon=True).start()
    if app.serves_others and (warning := open_warning(app)):
        log.warning("%s", warning["zh" if chinese else "en"])
    if app.flags.on("auto_launch") and not app.restart.is_successor:  # the page that asked for the restart is open
        webbrowser.open(url)
    first_load.start(app)


def open_warning(app: App) -> Words | None:
    """Return a warning for a server that others can reach, if they can use it without a password."""
    if not app.credentials.required:
        return {
            "en": "Warning: anyone on the network can use this server. Set --gradio-auth or --api-key.",
            "zh": "警告：局域网内的任何人都可以使用。请设置 --gradio-auth 或 --api-key。",
        }
    if app.flags.on("multi_user") and not app.credentials.logins and not app.flags.on("nowebui"):
        return {
            "en": "Warning: anyone on the network can chat on the page. With --multi-user the API key protects the API "
            "only; set --gradio-auth as well.",
            "zh": "警告：局域网内的任何人都可以在页面上聊天。使用 --multi-user 时，API 密钥只保护 API；"
            "请同时设置 --gradio-auth。",
        }
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
