"""Importing Gradio without its stubs."""

from __future__ import annotations

import subprocess
import sys

from modules.core.paths import ROOT
from modules.ui.gradio_import import gradio


def in_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_gradio_is_imported_completely_and_its_function_restored(whole_program: None) -> None:
    code = (
        "from modules.ui.gradio_import import gradio; gr = gradio()\n"
        "import gradio.component_meta as meta, inspect\n"
        "import sys; postponed = 'pandas' in sys.modules and 'pandas.core' not in sys.modules\n"
        "print(inspect.getsourcefile(meta.create_or_modify_pyi) == meta.__file__, gr.Button('x').value, postponed)\n"
        "print(gr.Dataframe([[1, 2]]).value['data'], 'pandas.core' in sys.modules)"
    )
    assert in_python(code).split("\n") == ["True x True", "[[1, 2]] True"]


def test_gradio_still_renders_its_stubs_at_every_import(whole_program: None) -> None:
    """If this fails, Gradio no longer does so, and modules/ui/gradio_import.py can be removed."""
    code = "import gradio.component_meta as meta; print(meta.create_or_modify_pyi.__code__.co_argcount)"
    assert in_python(code) == "3"


def test_the_constructor_of_a_component_is_inspected_once() -> None:
    """If this fails, Gradio inspects it elsewhere, or no more: see modules/ui/gradio_import.py."""
    inspected = gradio().component_meta.inspect.getfullargspec
    gradio().Textbox("x")
    before = inspected.cache_info()
    assert gradio().Textbox("y").value == "y"
    after = inspected.cache_info()
    assert after.misses == before.misses and after.hits > before.hits
