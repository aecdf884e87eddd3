"""Models to offer to somebody who has none: a short table, and which of them suit this machine's memory.

Sources, read in November 2026: sizes are those of the file lists of the repositories; licenses are those of the model
cards; the cache of a token follows from layers, key-value heads and head size in the original models' config.json.
All files lie on huggingface.co, which hf-mirror.com passes on.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from modules.catalog.catalog import Catalog
from modules.core.errors import WebUIError
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.loaders.registry import candidates
from modules.planning.fit import TIGHT
from modules.planning.load_request import LoadRequest
from modules.planning.load_service import LoadService
from modules.planning.memory_budget import MemoryBudget
from modules.planning.planner import Planner
from modules.runtime.model_manager import ModelManager

COUNT = 3
"""How many models are offered."""
CONTEXT = 4096
"""The context length, in tokens, that must fit beside the weights."""
MAX_SIZE_WITHOUT_GPU = 6 * 10**9
"""Larger models are not offered without a GPU: each token reads all weights, which takes a CPU more than 0.1 s."""

_BUFFERS = 300 * 10**6  # compute buffers and the process itself

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StarterModel:
    """A GGUF file in a repository. `size` is in bytes, `token_bytes` the cache of one token with 16-bit values."""

    title: str
    repo: str
    file: str
    size: int
    context_length: int
    token_bytes: int
    quantization: str
    license: str = "Apache-2.0"

    @property
    def need(self) -> int:
        """The bytes of memory for the weights and a context of `CONTEXT` tokens."""
        return self.size + CONTEXT * self.token_bytes + _BUFFERS

    @property
    def spec(self) -> DownloadSpec:
        """The download of this file, directly into the folder of models."""
        return DownloadSpec(self.repo, "main", "", (self.file,))


STARTER_MODELS = (
    StarterModel(
        title="SmolLM2 360M",
        repo="HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
        file="smollm2-360m-instruct-q8_0.gguf",
        size=386_404_992,
        context_length=8192,
        token_bytes=32 * 2 * 5 * 64 * 2,
        quantization="Q8_0",
    ),
    StarterModel(
        title="Qwen3 0.6B",
        repo="Qwen/Qwen3-0.6B-GGUF",
        file="Qwen3-0.6B-Q8_0.gguf",
        size=639_446_688,
        context_length=40_960,
        token_bytes=28 * 2 * 8 * 128 * 2,
        quantization="Q8_0",
    ),
    StarterModel(
        title="Qwen3 1.7B",
        repo="Qwen/Qwen3-1.7B-GGUF",
        file="Qwen3-1.7B-Q8_0.gguf",
        size=1_834_426_016,
        context_length=40_960,
        token_bytes=28 * 2 * 8 * 128 * 2,
        quantization="Q8_0",
    ),
    StarterModel(
        title="Qwen3 4B",
        repo="Qwen/Qwen3-4B-GGUF",
        file="Qwen3-4B-Q4_K_M.gguf",
        size=2_497_280_256,
        context_length=40_960,
        token_bytes=36 * 2 * 8 * 128 * 2,
        quantization="Q4_K_M",
    ),
    StarterModel(
        title="Qwen3 8B",
        repo="Qwen/Qwen3-8B-GGUF",
        file="Qwen3-8B-Q4_K_M.gguf",
        size=5_027_783_488,
        context_length=40_960,
        token_bytes=36 * 2 * 8 * 128 * 2,
        quantization="Q4_K_M",
    ),
    StarterModel(
        title="Qwen3 14B",
        repo="Qwen/Qwen3-14B-GGUF",
        file="Qwen3-14B-Q4_K_M.gguf",
        size=9_001_752_960,
        context_length=40_960,
        token_bytes=40 * 2 * 8 * 128 * 2,
        quantization="Q4_K_M",
    ),
    StarterModel(
        title="Qwen3 32B",
        repo="Qwen/Qwen3-32B-GGUF",
        file="Qwen3-32B-Q4_K_M.gguf",
        size=19_762_149_024,
        context_length=40_960,
        token_bytes=64 * 2 * 8 * 128 * 2,
        quantization="Q4_K_M",
    ),
)
"""Smallest first."""


def suitable_models(free: int, has_gpu: bool) -> tuple[StarterModel, ...]:
    """Return up to three models that fit in `free` bytes of memory, the largest first; always at least one.

    If `free` is 0, it is unknown, and the smallest ones are returned.
    """
    fitting = [model for model in STARTER_MODELS if model.need <= TIGHT * free]
    fitting = [model for model in fitting if has_gpu or model.size <= MAX_SIZE_WITHOUT_GPU]
    if not free:
        fitting = list(STARTER_MODELS[:COUNT])
    return tuple(reversed(fitting[-COUNT:] or STARTER_MODELS[:1]))


class StarterDownloads:
    """Downloads starter models, and loads one when it is complete if no other model is in use by then."""

    def __init__(
        self,
        downloads: DownloadManager,
        catalog: Catalog,
        models: ModelManager,
        planner: Planner,
        loading: LoadService,
        memory: MemoryBudget,
    ) -> None:
        self._downloads, self._catalog, self._models = downloads, catalog, models
        self._planner, self._loading, self._memory = planner, loading, memory
        self._waiting: dict[str, StarterModel] = {}  # by job
        self._lock = threading.Lock()  # guards the jobs that are waited for
        downloads.on_done(self._load_finished)

    def offered(self) -> tuple[tuple[StarterModel, ...], int]:
        """Return the models to offer on this machine, and the bytes of memory that are free for one."""
        main, *cards = self._memory.free_memory(candidates("gguf")[0])
        free = max(main.free, sum(card.free for card in cards))
        return suitable_models(free, bool(cards)), free

    def start(self, file: str) -> str:
        """Download the model in `file`, or resume that, and return the job's id. Raises KeyError or DownloadError."""
        model = {model.file: model for model in STARTER_MODELS}[file]
        self._downloads.check_space(model.spec, model.size)
        with self._lock:  # held meanwhile, so that a download cannot be complete before it is waited for
            job = self._downloads.start(model.spec)
            self._waiting[job] = model
        return job

    def jobs(self) -> dict[str, JobView]:
        """Return the latest download of each starter model that has one, by file name."""
        files = {model.spec.identity: model.file for model in STARTER_MODELS}
        views = self._downloads.snapshot()
        return {files[view.spec.identity]: view for view in views if view.spec.identity in files}

    def _load_finished(self) -> None:
        """Load the model whose download has just been completed. Called on the thread of a job."""
        done = {view.id for view in self._downloads.snapshot() if view.state == "done"}
        with self._lock:
            finished = [self._waiting.pop(job) for job in list(self._waiting) if job in done]
        for model in finished:
            if self._models.status.state in ("loading", "ready"):
                continue
            try:
                plan = self._planner.plan(LoadRequest(self._catalog.find(model.file)))
                self._loading.begin(plan)
            except WebUIError as error:  # the page offers to load the model, and then shows why it fails
                log.warning("%s: %s", model.file, error)
