"""One evaluation: its models one after the other, in a thread of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from modules.core.errors import InternalError, WebUIError, Words
from modules.core.product import LOG_FILE
from modules.core.worker_errors import LoadCancelled
from modules.evaluation import fingerprint
from modules.evaluation.errors import EvaluationError, KlImpossible, LorasChanged, ResultsNotSaved, ResultsUnreadable
from modules.evaluation.prepared import PreparedText, check_ability, explain_difference, prepare_text
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.result_row import identifying_cells, result_cells
from modules.evaluation.results import EvaluationResults, Row
from modules.evaluation.scoring import Distributions, Scores, score
from modules.evaluation.state import Evaluation, RunState, SubjectState
from modules.evaluation.statistics import bits_per_byte, compare, perplexity
from modules.evaluation.subjects import SubjectLoader
from modules.evaluation.texts import EvaluationText
from modules.evaluation.token_store import TokenStore
from modules.runtime.loaded_model import LoadedModel

log = logging.getLogger(__name__)

_TOKENS_NOT_KEPT: Words = {
    "en": "Not compared with the first model: its earlier result has other tokens, or they are no longer kept.",
    "zh": "未与第一个模型比较：其先前结果的词符不同，或已不再保留。",
}


class EvaluationRun:
    """One run. `state` is replaced as a whole, so that any thread may read it; `stop` may be called from any."""

    def __init__(
        self,
        request: EvaluationRequest,
        text: EvaluationText,
        loader: SubjectLoader,
        results: EvaluationResults,
        tokens: TokenStore,
        cache: Path,
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._request, self._text, self._loader, self._results = request, text, loader, results
        self._tokens, self._cache = tokens, cache / self.id
        self.state = RunState(self.id, request, subjects=tuple(map(SubjectState, request.subjects)))
        self.ended = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # guards the next two fields
        self._has_begun = False
        self._scoring: tuple[asyncio.AbstractEventLoop, asyncio.Task[Scores]] | None = None
        self._reference: tuple[Evaluation, PreparedText, Scores] | None = None
        self._distributions: Distributions | None = None
        self._tested_reference: Row | None = None  # the earlier result of the first model, if that is not repeated

    def stop(self) -> None:
        """Stop at once. Models that are done keep their results."""
        self._stopped.set()
        with self._lock:
            if not self._has_begun and not self.ended.is_set():
                subjects = tuple(dataclasses.replace(state, phase="stopped") for state in self.state.subjects)
                self.state = dataclasses.replace(self.state, phase="stopped", subjects=subjects)
                self.ended.set()
            if self._scoring is not None:
                loop, task = self._scoring
                loop.call_soon_threadsafe(task.cancel)

    def run(self) -> None:
        """Evaluate all models; an error of one of them ends only that one. Does nothing after `stop`."""
        with self._lock:
            if self.ended.is_set():
                return
            self._has_begun = True
        began = time.monotonic()
        try:
            for index, subject in enumerate(self._request.subjects):
                if self._stopped.is_set():
                    self._show(index, phase="stopped")
                else:
                    self._evaluate_subject(index, subject)
                    self.state = dataclasses.replace(self.state, seconds=time.monotonic() - began)
        finally:
            if self._distributions is not None:
                self._distributions.close()
            self._reference = self._distributions = None  # every token of the text is in it
            self.state = dataclasses.replace(self.state, phase=self._final_phase(), seconds=time.monotonic() - began)
            self.ended.set()

    def _final_phase(self) -> Any:
        phases = {state.phase for state in self.state.subjects}
        return "stopped" if self._stopped.is_set() else "done" if "done" in phases else "failed"

    def _evaluate_subject(self, index: int, subject: Subject) -> None:
        self._show(index, phase="loading")
        self.state = dataclasses.replace(self.state, phase="evaluating")
        outcome: dict[str, Any] = {"phase": "failed", "error": InternalError(LOG_FILE)}
        try:
            with self._loader.provide(subject, self._stopped.is_set) as model:
                found = self._evaluate(index, model)
            if isinstance(found, Row):
                outcome = {"phase": "done", "tested": found}
            else:
                outcome = {"phase": "done", "result": found, "error": self._save(found)}
        except asyncio.CancelledError:
            outcome = {"phase": "stopped"}
        except WebUIError as error:
            is_stopped = isinstance(error, LoadCancelled) and self._stopped.is_set()
            outcome = {"phase": "stopped"} if is_stopped else {"phase": "failed", "error": error}
        finally:
            self._show(index, **outcome)

    def _save(self, result: Evaluation) -> EvaluationError | None:
        """Add a result to the table; return why that failed."""
        try:
            self._results.add(result_cells(result))
        except (ResultsUnreadable, ResultsNotSaved) as error:
            return error
        return None

    def _evaluate(self, index: int, model: LoadedModel) -> Evaluation | Row:
        """Return the result, or the row of an earlier one that is not to be repeated."""
        self._show(index, phase="tokenizing")
        check_ability(model)
        began, changes = time.monotonic(), model.lora_changes
        prepared = prepare_text(model, self._text, self._request)
        if self._stopped.is_set():
            raise asyncio.CancelledError
        facts = hashes(model, self._text)
        if self._request.skip_tested and not self._request.kl and (row := self._find_tested(prepared, facts)):
            if index == 0:
                self._tested_reference = row
            return row
        self._show(index, phase="evaluating", total=len(prepared.windows))
        with ExitStack() as on_failure:
            keep, against = self._kl_files(prepared, model, on_failure)
            scores = asyncio.run(self._score(index, model, changes, prepared, keep, against))
            on_failure.pop_all()
        result = self._result(model, prepared, scores, facts, time.monotonic() - began)
        self._tokens.keep(result.id, prepared.windows_hash, scores.logprobs)
        if self._tested_reference is not None:
            return self._compared_with_earlier(result, self._tested_reference)
        if self._reference is None:
            self._reference, self._distributions = (result, prepared, scores), keep
        return result

    def _compared_with_earlier(self, result: Evaluation, row: Row) -> Evaluation:
        """Return a result with its difference from an earlier one, whose tokens are kept for a while."""
        difference = self._tokens.compare(result.id, row.id)
        if difference is None:
            return dataclasses.replace(result, not_compared=_TOKENS_NOT_KEPT)
        return dataclasses.replace(result, reference=row["Model"], difference=difference)

    def _find_tested(self, prepared: PreparedText, facts: Mapping[str, str]) -> Row | None:
        """Return the row of the same evaluation, if there is one. Without a fingerprint of the files there is none."""
        cells = identifying_cells(
            self._text.name,
            self._request.method,
            prepared.stride,
            prepared.length,
            prepared.bos_text,
            len(prepared.windows),
            facts,
        )
        return self._results.find(cells) if facts["model_hash"] else None

    def _kl_files(
        self, prepared: PreparedText, model: LoadedModel, on_failure: ExitStack
    ) -> tuple[Distributions | None, Distributions | None]:
        """Return where distributions are kept, and those to compare with."""
        if not self._request.kl:
            return None, None
        if self._reference is None:
            if len(self._request.subjects) < 2:
                raise KlImpossible(
                    {"en": "Choose a second model to compare with the first.", "zh": "请再选择一个与第一个比较的模型。"}
                )
            keep = Distributions(self._cache, prepared, model.info.vocabulary_size)
            on_failure.callback(keep.close)
            return keep, None
        if self._distributions is not None:
            self._distributions.check(prepared)
        return None, self._distributions

    async def _score(
        self,
        index: int,
        model: LoadedModel,
        lora_changes: int,
        prepared: PreparedText,
        keep: Distributions | None,
        against: Distributions | None,
    ) -> Scores:
        """Return the scores of all windows. Raises LorasChanged if there are not as many changes as before."""

        def report(scores: Scores) -> None:
            if model.lora_changes != lora_changes:
                raise LorasChanged(model.record.name)
            curve = self.state.subjects[index].curve
            value = scores.running_perplexity
            self._show(index, done=len(scores.logprobs), perplexity=value, curve=(*curve, value))

        task = asyncio.ensure_future(score(model, prepared, report, keep, against))
        with self._lock:
            self._scoring = asyncio.get_running_loop(), task
            if self._stopped.is_set():
                task.cancel()
        try:
            return await task
        finally:
            with self._lock:
                self._scoring = None

    def _result(
        self, model: LoadedModel, prepared: PreparedText, scores: Scores, facts: Mapping[str, str], seconds: float
    ) -> Evaluation:
        found = perplexity(scores.logprobs)
        reference = difference = not_compared = None
        if self._reference is not None:
            reference, of_reference, base = self._reference
            if of_reference.windows_hash != prepared.windows_hash:
                not_compared = explain_difference(prepared, of_reference)
            elif math.isfinite(found.value) and math.isfinite(reference.perplexity.value):
                difference = compare(scores.logprobs, base.logprobs)
        return Evaluation(
            id=uuid.uuid4().hex[:12],
            model=model.record.name,
            loader=model.loader.name,
            loras={lora.name: lora.weight for lora in model.loras},
            text=self._text.name,
            perplexity=found,
            bits_per_byte=bits_per_byte(scores.logprobs, prepared.size),
            method=self._request.method,
            stride=prepared.stride,
            length=prepared.length,
            bos=prepared.bos_text,
            windows_hash=prepared.windows_hash,
            date=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            seconds=seconds,
            hashes=facts,
            reference=reference.model if reference and (difference or scores.divergence) else "",
            difference=difference,
            divergence=scores.divergence,
            not_compared=not_compared,
        )

    def _show(self, index: int, **changes: Any) -> None:
        subjects = list(self.state.subjects)
        subjects[index] = dataclasses.replace(subjects[index], **changes)
        self.state = dataclasses.replace(self.state, subjects=tuple(subjects))


def hashes(model: LoadedModel, text: EvaluationText) -> dict[str, str]:
    """Return the fingerprints of `results.HASH_COLUMNS`; "" for files that have just been changed or deleted."""
    plan = model.plan
    try:
        files, adapters = fingerprint.hash_files(model.record.path), fingerprint.hash_adapters(plan.adapters)
    except OSError as error:
        log.warning("%s: %s", model.record.name, error)
        files = adapters = ""
    return {
        "options_hash": fingerprint.hash_json([model.loader.name, plan.options]),
        "model_hash": files,
        "loras_hash": adapters,
        "text_hash": text.sha256,
    }
