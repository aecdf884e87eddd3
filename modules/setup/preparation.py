"""Prepare in the background what a first start lacks: llama.cpp and a demo model. Then load a model, once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import WebUIError, Words
from modules.loaders.registry import LLAMACPP
from modules.runtime.model_manager import ModelManager
from modules.setup import demo_model, install
from modules.setup.overlay_installer import Installing, Overlays
from modules.setup.pip import Stopped
from modules.system.terminal import terminal_language

log = logging.getLogger(__name__)

Load = Callable[[str, int], None]
"""Loads the model of a name, with the number that `ModelManager` has given out for it."""

_GRACE_SECONDS = 5.0
_READY: Words = {"en": "llama.cpp is ready.", "zh": "llama.cpp 已可使用。"}
_DEMO_READY: Words = {"en": "The demo model has been fetched.", "zh": "演示模型已下载。"}


@dataclass(frozen=True)
class Progress:
    """`llamacpp` is the state of its overlay. `demo_error` says why there is no demo model. `load` is the model that
    will be loaded as soon as all is ready."""

    llamacpp: Installing
    fetching_demo: bool = False
    demo_error: WebUIError | None = None
    load: str = ""

    @property
    def moving(self) -> bool:
        return self.llamacpp.moving or self.fetching_demo

    @property
    def failed(self) -> bool:
        return self.llamacpp.error is not None or self.demo_error is not None


class Preparation:
    """Any thread may ask; only `close` waits."""

    def __init__(self, overlays: Overlays, models: ModelManager, models_folder: Path) -> None:
        self._overlays, self._models, self._folder = overlays, models, models_folder
        self._load: Load | None = None
        self._number = 0
        self._wants_demo = False
        self._load_later = ""
        self._fetching_demo = False
        self._demo_error: WebUIError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self, load: Load, *, demo: bool, waiting: str = "") -> None:
        """Fetch the demo model if that is wanted and no model is there; compile llama.cpp if it is missing. Then `load`
        the model that is `waiting` for that, else the demo model, unless somebody has asked for another one by then."""
        self._load = load
        self._wants_demo = demo
        self._load_later = waiting
        # Of the load that will be asked for then: any other load or unload gets a later number, and so wins.
        self._number = self._models.next_number()
        self.go_on()

    def go_on(self) -> None:
        """Begin, or try again after a failure; if it is under way, leave it so."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._demo_error = None
            self._fetching_demo = self._wants_demo and not demo_model.has_model(self._folder)
            missing = not _installed()
            if missing:
                self._overlays.begin(LLAMACPP)
            self._thread = threading.Thread(target=self._run, args=(missing,), name="preparation", daemon=True)
            self._thread.start()

    def view(self) -> Progress:
        state = self._overlays.view(LLAMACPP)
        if state.state == "absent" and LLAMACPP.in_environment:
            state = Installing("whole")
        return Progress(state, self._fetching_demo, self._demo_error, self._promised())

    def close(self) -> None:
        """Stop, and wait until that has been tidied up."""
        self._stop.set()
        self._overlays.cancel(LLAMACPP)
        if self._thread is not None:
            self._thread.join(_GRACE_SECONDS)

    def _promised(self) -> str:
        """The model that will be loaded, as things stand."""
        if not self._number or not self._models.is_latest(self._number):
            return ""
        demo = self._wants_demo and (self._fetching_demo or (self._folder / demo_model.NAME).is_file())
        return self._load_later or (demo_model.NAME if demo else "")

    def _run(self, missing: bool) -> None:
        fetched = self._fetching_demo
        with ThreadPoolExecutor(1, "demo") as pool:  # the network is idle while the compiler works
            demo = pool.submit(self._fetch_demo) if fetched else None
            language = terminal_language()
            install.watch(LLAMACPP, language, self._overlays)
            if demo is not None:
                demo.result()
        if self._stop.is_set() or not _installed():
            return
        if missing:
            log.info("%s", _READY[language])
        name = self._promised()
        if self._load is not None and name and (missing or fetched or self._load_later):
            self._load(name, self._number)
            self._models.next_number()  # once is enough: a later attempt shall not load it again

    def _fetch_demo(self) -> None:
        try:
            demo_model.fetch(self._folder / demo_model.NAME, self._stop)
            log.info("%s", _DEMO_READY[terminal_language()])
        except WebUIError as error:
            self._demo_error = error
            log.warning("%s", error.say(terminal_language()))
        except Stopped:
            pass
        finally:
            self._fetching_demo = False


def _installed() -> bool:
    return LLAMACPP.in_environment or LLAMACPP.whole
