"""Build a part of the page by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from modules.ui.gradio_import import gradio

gr = gradio()


@contextlib.contextmanager
def page_parts() -> Iterator[None]:
    """A `gr.Blocks` to make components in, without what takes most of its time: two web applications and a config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.blocks.App.create_app", staticmethod(lambda *_blocks, **_settings: None))
        patch.setattr("gradio.blocks.Blocks.get_config_file", lambda _blocks: {})
        with gr.Blocks():
            yield
