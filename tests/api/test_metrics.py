"""The numbers of the server in Prometheus' format."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from modules.api.metrics import exposition
from modules.runtime.resident import Resident
from modules.runtime.totals import Totals
from tests.support.echo_plans import record


def values(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))  # type: ignore[misc]


def test_numbers_of_all_models_and_of_each() -> None:
    models: Any = [
        SimpleNamespace(generations=5, info=SimpleNamespace(slots=4)),
        SimpleNamespace(generations=1, info=SimpleNamespace(slots=1)),
    ]
    residents = [
        Resident('a "b"\\\n', "llama.cpp", "ready", record("a"), memory=7, generations=5),
        Resident("z", "x", "asleep", record("z")),
    ]
    text = exposition(Totals(9, 1, 100, 40, 50, 2.0, 5.0, 20, 15, 120), models, residents, waiting_requests=2)
    found = values(text)
    assert found["llamacpp:prompt_tokens_total"] == "60"
    assert found["llamacpp:prompt_tokens_seconds"] == "30.0"
    assert found["llamacpp:predicted_tokens_seconds"] == "10.0"
    drafts = (found["text_studio_draft_tokens_total"], found["text_studio_draft_tokens_accepted_total"])
    assert drafts == ("20", "15")
    assert (found["llamacpp:requests_processing"], found["llamacpp:requests_deferred"]) == ("5", "3")
    assert (found["text_studio_generations_total"], found["text_studio_generations_failed_total"]) == ("9", "1")
    assert found[r'text_studio_model_memory_bytes{model="a \"b\"\\\n"}'] == "7"
    assert found['text_studio_model_state{model="z",state="asleep"}'] == "1"
    assert int(found["text_studio_server_memory_bytes"]) > 0


def test_every_number_has_a_type_and_a_description() -> None:
    text = exposition(Totals(), [], [Resident("a", "x", "ready", record("a"))], 0)
    assert text.endswith("\n") and values(text)["llamacpp:prompt_tokens_seconds"] == "0.0"
    described = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    typed = set(re.findall(r"^# TYPE (\S+) (?:counter|gauge)$", text, re.MULTILINE))
    assert described == typed == {name.partition("{")[0] for name in values(text)}
