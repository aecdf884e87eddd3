"""The notice about the preparation, in both languages."""

from __future__ import annotations

import pytest

from modules.core.errors import InstallFailed, both
from modules.loaders.overlay import Overlay
from modules.setup import install_errors
from modules.setup.overlay_installer import Installation
from modules.setup.preparation import PreparationStatus
from modules.ui.locales import translator
from modules.ui.preparation_notice import preparation

OVERLAY = Overlay("llamacpp", 1, title="llama.cpp")


@pytest.mark.parametrize(
    ("language", "compiling", "meanwhile"),
    [("en", "Compiling llama.cpp: 3 of 8", "Meanwhile"), ("zh", "正在编译 llama.cpp：3/8", "其间")],
)
def test_a_compilation_shows_its_steps_and_what_can_be_done_meanwhile(
    language: str, compiling: str, meanwhile: str
) -> None:
    progress = PreparationStatus(OVERLAY, Installation("installing", 3, 8, phase="compiling"))
    html = preparation(progress, True, language, translator(language))
    assert compiling in html and meanwhile in html and 'style="width:38%"' in html


@pytest.mark.parametrize(
    ("language", "cause", "button"), [("en", "ran out of memory", "Try again"), ("zh", "内存不足", "重试")]
)
def test_a_failure_shows_its_cause_and_a_button_to_retry(language: str, cause: str, button: str) -> None:
    explained = install_errors.explain("c++: fatal error: Killed signal terminated program cc1plus")
    assert explained is not None
    error = InstallFailed(both("llama.cpp"), explained)
    html = preparation(
        PreparationStatus(OVERLAY, Installation("failed", error=error)), True, language, translator(language)
    )
    assert cause in html and button in html and 'role="alert"' in html
