"""The list of models in Anthropic's format."""

from __future__ import annotations

import pytest

from modules.api.anthropic.models import models_page
from modules.core.errors import OptionError

MODELS = [{"id": name, "created": 86_400, "context_length": 4096 if name == "a" else 0} for name in "abcde"]


def test_a_model_has_its_date_and_its_context() -> None:
    page = models_page(MODELS[:2], {})
    first, second = page["data"]
    assert first == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "1970-01-02T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 4096,
        "max_tokens": 4096,
    }
    assert second["max_tokens"] is None
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "a", "b")


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "3", "before_id": "d"}, "abc", False),
    ],
)
def test_the_list_comes_in_pages(query: dict[str, str], ids: str, more: bool) -> None:
    page = models_page(MODELS, query)
    assert ("".join(model["id"] for model in page["data"]), page["has_more"]) == (ids, more)


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "1001"}, {"limit": "²"}, {"limit": "1" * 5000}, {"after_id": "x"}, {"limit": ""}],
)
def test_a_page_that_does_not_exist_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        models_page(MODELS, query)
    assert models_page([], {}) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
