"""Open the saved prompts of a loaded model, for the LoRAs that are applied to it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from modules.core.events import Json
from modules.engines.lora_set import AdapterRequest, file_version
from modules.engines.prompt_cache.folder import PromptFolder, PromptKey, content_key, model_key, short_hash
from modules.engines.prompt_cache.store import PromptStore

ApplyLoras = Callable[[list[AdapterRequest]], list[float]]

log = logging.getLogger(__name__)


class PromptKeeper:
    """The saved prompts of the model at `path`; `attach` gives its engine the store, or None to use none.

    `facts` are what keys and values depend on besides the model's files, the LoRAs and the tokens: options, versions.
    """

    def __init__(self, path: Path, facts: Json, attach: Callable[[PromptStore | None], None]) -> None:
        self._path, self._facts, self._attach = path, facts, attach
        self._store: PromptStore | None = None
        self._content = ""  # of the files that were loaded: others may have taken their place since
        self._loras: list[AdapterRequest] = []

    def keep(self, folder: str, max_bytes: int) -> None:
        """Use the saved prompts in `folder`, an absolute path, from now on; that is the operation "keep_prompts"."""
        try:
            files = PromptFolder(Path(folder), max_bytes)
            self._content = content_key(self._path)
            files.delete_model(self._path, kept_content=self._content)
            self._store = PromptStore(files, self._path.name, self._key())
        except OSError as error:
            log.warning("saved prompts: %s", error)
            self._store = None
        self._attach(self._store)

    def following(self, apply: ApplyLoras) -> ApplyLoras:
        """Return the operation `apply`, after which only the prompts saved with the same LoRAs are used."""

        def apply_and_follow(adapters: list[AdapterRequest]) -> list[float]:
            effects = apply(adapters)
            self._loras = adapters
            try:
                if self._store is not None:
                    self._store.use_key(self._key())
                self._attach(self._store)
            except OSError as error:  # a file has just been deleted
                log.warning("saved prompts: %s", error)
                self._attach(None)
            return effects

        return apply_and_follow

    def _key(self) -> PromptKey:
        """Return the key of prompts with the LoRAs that are applied. Raises OSError."""
        loras = [(file_version(Path(one["path"])), one["weight"]) for one in self._loras if one["weight"]]
        facts = json.dumps(self._facts, sort_keys=True, default=str)
        return PromptKey(model_key(self._path), self._content, short_hash(facts, sys.byteorder, loras))
