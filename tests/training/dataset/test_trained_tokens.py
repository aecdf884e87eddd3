"""The trained tokens are exactly the answers with their end marks: ten templates, three kinds of tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.engines.training.samples import Sample
from modules.training.dataset.conversations import Conversation
from modules.training.dataset.masking import MaskedText, TemplateMasks
from tests.support.forked import forked
from tests.support.template_table import SPECIAL_TOKENS
from tests.support.training_tokenizers import KINDS, learned
from tests.training.dataset.test_masking import AGAIN, FAMILIES, QUESTION, SYSTEM

ANSWERS = ("Two,\n\tthree", "你好 x.", "🙂 print('<b>')  # é", "1 + 1\n\n= 2")
TURNS = Conversation(
    (
        SYSTEM,
        *(
            message
            for question, answer in zip((QUESTION, AGAIN, AGAIN, AGAIN), ANSWERS, strict=True)
            for message in (question, {"role": "assistant", "content": answer})
        ),
    )
)


def test_trained_tokens_are_exactly_the_answers(smollm2_folder: Path, subtests: pytest.Subtests) -> None:
    templates = ChatTemplates()
    samples = {}
    for name, source in FAMILIES.items():
        (masked,) = TemplateMasks(templates, ModelTemplate(name, source, {}, SPECIAL_TOKENS)).mask([TURNS])
        assert isinstance(masked, MaskedText)
        samples[name] = Sample(1, masked.segments)
    templates.close()
    results = forked(learned, smollm2_folder, samples)
    assert set(results) == {(kind, name) for kind in KINDS for name in FAMILIES}
    for (kind, name), stretches in results.items():
        with subtests.test(name, tokenizer=kind):
            trained = [text for text, is_trained in samples[name].segments if is_trained]
            assert any(answer in trained[-1] for answer in ANSWERS)
            assert [text for text, _, _ in stretches] == trained
            decoded = [text.replace("▁", " ") for _, text, _ in stretches]  # also in the name of a special token
            assert decoded == [text.replace("▁", " ") for text in trained]
            assert {begins for _, _, begins in stretches} <= {0, 1}
