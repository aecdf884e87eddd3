"""The Training page: the place where the page's script draws its views; see static/training.js."""

from __future__ import annotations

from modules.ui.gradio_import import gradio

gr = gradio()


class TrainingTab:
    """Created inside a `gr.Tab`."""

    def __init__(self) -> None:
        gr.HTML("<div data-training></div>", elem_id="tx-training-root")
