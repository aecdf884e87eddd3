"""Prepare a first start in the background: install llama.cpp, download the demo model, then load a model once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import WebUIError, Words
from modules.loaders.overlay import Overlay
from modules.runtime.model_manager import ModelManager
from modules.setup import demo_model, install
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.setup.pip import Stopped
from modules.system.terminal import terminal_language

log = logging.getLogger(__name__)

Load = Callable[[str, int], None]
"""Loads the model of a name, with a load number issued by `ModelManager.next_number`."""

_JOIN_SECONDS = 5.0
_READY: Words = {"en": "llama.cpp is ready.", "zh": "llama.cpp 已可使用。"}
_DEMO_READY: Words = {"en": "The demo model has been downloaded.", "zh": "演示模型已下载。"}


@dataclass(frozen=True)
class PreparationStatus:
    """Snapshot of the preparation.

    `installation` is the state of `overlay`. `demo_error` says why the demo model could not be downloaded. `load` is
    the name of the model that will be loaded when everything is ready; "" if none.
    """

    overlay: Overlay
    installation: Installation
    downloading_demo: bool = False
    demo_error: WebUIError | None = None
    load: str = ""

    @property
    def in_progress(self) -> bool:
        return self.installation.in_progress or self.downloading_demo

    @property
    def failed(self) -> bool:
        return self.installation.error is not None or self.demo_error is not None


class Preparation:
    """Owner of the preparation and its thread. Thread-safe; only `close` blocks."""

    def __init__(self, overlays: OverlayInstaller, models: ModelManager, models_folder: Path, overlay: Overlay) -> None:
        self._overlays, self._models, self._folder, self._overlay = overlays, models, models_folder, overlay
        self._load: Load | None = None
        self._load_number = 0
        self._wants_demo = False
        self._waiting_model = ""
        self._downloading_demo = False
        self._demo_error: WebUIError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, load: Load, *, demo: bool, waiting: str = "") -> None:
        """Install the overlay if it is missing, and download the demo model if `demo` is set and there is no model.

        Then call `load` with the model `waiting`, or else with the demo model, unless another model has been loaded or
        unloaded in the meantime.
        """
        self._load = load
        self._wants_demo = demo
        self._waiting_model = waiting
        # Taken now, so that any load or unload during the preparation has a later number and takes precedence.
        self._load_number = self._models.next_number()
        self.resume()

    def resume(self) -> None:
        """Run the preparation again, for example after a failure. Does nothing while it is running."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._demo_error = None
            self._downloading_demo = self._wants_demo and not demo_model.has_model(self._folder)
            missing = not self._is_installed()
            if missing:
                self._overlays.start(self._overlay)
            self._thread = threading.Thread(target=self._run, args=(missing,), name="preparation", daemon=True)
            self._thread.start()

    def status(self) -> PreparationStatus:
        installation = self._overlays.status(self._overlay)
        if installation.state == "absent" and self._overlay.in_environment:
            installation = Installation("installed")
        return PreparationStatus(
            self._overlay, installation, self._downloading_demo, self._demo_error, self._model_to_load()
        )

    def close(self) -> None:
        """Cancel the preparation and wait a few seconds until its files are cleaned up."""
        self._stop.set()
        self._overlays.cancel(self._overlay)
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _is_installed(self) -> bool:
        return self._overlay.in_environment or self._overlay.is_installed

    def _model_to_load(self) -> str:
        if not self._load_number or not self._models.is_latest(self._load_number):
            return ""
        demo = self._wants_demo and (self._downloading_demo or (self._folder / demo_model.NAME).is_file())
        return self._waiting_model or (demo_model.NAME if demo else "")

    def _run(self, missing: bool) -> None:
        download = self._downloading_demo
        with ThreadPoolExecutor(1, "demo") as pool:  # the network is idle while the compiler works
            demo = pool.submit(self._download_demo) if download else None
            language = terminal_language()
            install.watch(self._overlay, language, self._overlays)
            if demo is not None:
                demo.result()
        if self._stop.is_set() or not self._is_installed():
            return
        if missing:
            log.info("%s", _READY[language])
        name = self._model_to_load()
        if self._load is not None and name and (missing or download or self._waiting_model):
            self._load(name, self._load_number)
            self._models.next_number()  # a later `resume` must not load the model again

    def _download_demo(self) -> None:
        try:
            demo_model.download(self._folder / demo_model.NAME, self._stop)
            log.info("%s", _DEMO_READY[terminal_language()])
        except WebUIError as error:
            self._demo_error = error
            log.warning("%s", error.say(terminal_language()))
        except Stopped:
            pass
        finally:
            self._downloading_demo = False
