"""What the list of models says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from modules.api.model_list import _model_object, describe_model, list_models
from modules.app import App
from tests.support import echo_plans
from tests.support.gguf_files import gguf


def test_a_model_outside_the_folder_is_listed_while_it_is_in_use(make_app: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "models" / "inside.gguf").write_bytes(gguf())
    app = make_app()
    assert [model["id"] for model in list_models(app)] == ["inside.gguf"]
    echo_plans.load(app.models, "outside")
    outside, inside = list_models(app)
    assert (outside["id"], outside["status"], outside["context_length"]) == ("outside", {"value": "loaded"}, 64)
    assert (inside["id"], inside["status"], inside["loaded"]) == ("inside.gguf", {"value": "unloaded"}, False)
    assert describe_model(app, "inside") == inside and describe_model(app, "outside") == outside


def test_a_model_with_a_vision_part_beside_it_reads_images(make_app: Callable[..., App]) -> None:
    app = make_app()
    plan = echo_plans.plan("sees")
    record = dataclasses.replace(plan.record, defaults={"mmproj": "mmproj-sees.gguf"})
    for name, modalities in (("blind", ["text"]), ("sees", ["text", "image"])):
        app.models.load(dataclasses.replace(plan, record=dataclasses.replace(record, name=name, path=Path(name))))
        assert describe_model(app, name)["input_modalities"] == modalities
    folder = dataclasses.replace(record, name="folder", defaults={}, images=True)
    assert _model_object(folder, None)["input_modalities"] == ["text", "image"]
    with app.models.request("sees", keep_alive=0).result(timeout=10):
        pass
    echo_plans.wait_until(lambda: describe_model(app, "sees")["status"] == {"value": "sleeping"})
    assert describe_model(app, "sees")["input_modalities"] == ["text", "image"]
