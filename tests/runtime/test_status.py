"""Versions of the parts of a status: what an open page must show again, and what it may leave alone."""

from __future__ import annotations

from dataclasses import replace

from modules.core.lora_errors import LoraNotFound
from modules.runtime.loaded_model import AppliedLora
from modules.runtime.status import Status


def test_the_versions_of_a_model_and_its_loras_grow_with_their_own_changes_only() -> None:
    loading = Status("loading", 1, "a", progress=0.5).after(Status())
    assert (loading.model_version, loading.loras_version) == (1, 0)
    further = replace(loading, version=2, progress=0.6).after(loading)
    assert further.model_version == 2
    ready = Status("ready", 3, "a", memory=1).after(further)
    other = Status("ready", 4, "a", memory=1).after(ready)
    assert (other.model_version, other.loras_version) == (3, 0), "another model has changed"
    applied = Status("ready", 5, "a", memory=2, loras=(AppliedLora("l", 1, 0.1),)).after(other)
    assert (applied.model_version, applied.loras_version) == (3, 5)
    problem = Status("ready", 6, "a", memory=1, lora_problem=LoraNotFound("l", "")).after(applied)
    assert (problem.model_version, problem.loras_version) == (3, 6)
    assert Status("ready", 7, "b").after(problem).model_version == 7
