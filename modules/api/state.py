"""The state that the routes of the API share."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary, WeakSet

from modules.api.generations import Generations
from modules.app import App
from modules.chat.render_batches import RenderBatches
from modules.options.option import Value
from modules.runtime.loaded_model import LoadedModel
from modules.system.work_threads import WorkThreads


@dataclass(frozen=True)
class ApiState:
    """The application, the generation parameters that each model was loaded with, the generations under way, and the
    threads that prepare them.

    The parameters of a model are the API's defaults while that model is loaded.
    """

    app: App
    defaults: MutableMapping[LoadedModel, Mapping[str, Value]] = field(default_factory=WeakKeyDictionary)
    running: WeakSet[Generations] = field(default_factory=WeakSet)
    threads: WorkThreads = field(default_factory=WorkThreads)

    @cached_property
    def renderings(self) -> RenderBatches:
        """The prompts that are being rendered."""
        return RenderBatches(self.app.templates, self.threads)

    def defaults_of(self, model: LoadedModel) -> Mapping[str, Value]:
        """Return the generation parameters of a request that states none."""
        return {**self.app.settings.current.generation, **self.defaults.get(model, {})}
