"""The models that are offered to somebody who has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.hub.file_choices import list_choices
from modules.hub.repository import RemoteFile, Repository
from modules.planning.fit import TIGHT
from modules.planning.load_request import LoadRequest
from modules.planning.starter_models import COUNT, MAX_SIZE_WITHOUT_GPU, STARTER_MODELS, suitable_models
from tests.support.downloading import until
from tests.support.hub_server import HubServer

GB = 10**9
SMALLEST = STARTER_MODELS[0]
MakeApp = Callable[..., App]


@pytest.fixture
def hub(tiny: Path) -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(SMALLEST.repo, {SMALLEST.file: tiny})
        yield started


@pytest.fixture
def app(make_app: MakeApp, hub: HubServer) -> App:
    app = make_app()
    app.mirrors.choose(hub.url)
    return app


def titles(free: float, has_gpu: bool = False) -> list[str]:
    return [model.title for model in suitable_models(int(free), has_gpu)]


def test_the_three_largest_models_that_fit_are_offered_largest_first() -> None:
    assert titles(14 * GB) == ["Qwen3 8B", "Qwen3 4B", "Qwen3 1.7B"]
    assert titles(6 * GB) == ["Qwen3 4B", "Qwen3 1.7B", "Qwen3 0.6B"]
    assert titles(24 * GB, has_gpu=True) == ["Qwen3 32B", "Qwen3 14B", "Qwen3 8B"]


def test_a_small_machine_is_offered_fewer_models_but_never_none() -> None:
    assert titles(1.3 * GB) == ["SmolLM2 360M"]
    assert titles(0.1 * GB) == ["SmolLM2 360M"]


def test_unknown_memory_offers_the_smallest_models() -> None:
    assert titles(0) == ["Qwen3 1.7B", "Qwen3 0.6B", "SmolLM2 360M"]


def test_large_models_are_not_offered_to_a_machine_without_a_gpu() -> None:
    assert all(model.size <= MAX_SIZE_WITHOUT_GPU for model in suitable_models(512 * GB, has_gpu=False))


def test_all_offers_fit(subtests: pytest.Subtests) -> None:
    for free in range(2 * GB, 60 * GB, GB):
        with subtests.test(free=free):
            offered = suitable_models(free, has_gpu=True)
            assert 0 < len(offered) <= COUNT and all(model.need <= TIGHT * free for model in offered)


def test_the_table_is_sorted_and_its_files_say_their_quantization() -> None:
    sizes = [model.size for model in STARTER_MODELS]
    assert sizes == sorted(sizes)
    for model in STARTER_MODELS:
        repository = Repository(model.repo, "main", "0" * 40, (RemoteFile(model.file, model.size, sha256="0" * 64),))
        assert [choice.quantization.upper() for choice in list_choices(repository)] == [model.quantization]


def test_a_starter_model_is_loaded_once_it_is_downloaded(app: App) -> None:
    app.starters.start(SMALLEST.file)
    until(lambda: app.models.status.state == "ready", 30)
    assert app.models.status.name == SMALLEST.file
    assert app.starters.jobs()[SMALLEST.file].state == "done"


def test_a_starter_model_is_not_loaded_in_place_of_another_one(
    app: App, hub: HubServer, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "models" / "mine.gguf").symlink_to(tiny)
    hub.fault("resolve", delay=1.0)
    app.starters.start(SMALLEST.file)
    app.loading.load(app.planner.plan(LoadRequest(app.record("mine.gguf"))))
    until(lambda: (tmp_path / "models" / SMALLEST.file).exists())
    until(lambda: app.starters.jobs()[SMALLEST.file].state == "done")
    assert app.models.status.name == "mine.gguf"


def test_only_models_of_the_table_are_downloaded(app: App, subtests: pytest.Subtests) -> None:
    for file in ("", "other.gguf", "../x"):
        with subtests.test(file=file), pytest.raises(KeyError):
            app.starters.start(file)
    assert app.downloads.snapshot() == ()
