"""What a template puts between an answer and the next question is found by probing it."""

from __future__ import annotations

import pytest

from modules.chat.templates import ALPACA, ChatTemplates, ModelTemplate
from tests.support.template_table import CHATML

ONE_QUESTION = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}"


def test_the_text_between_an_answer_and_the_next_question_is_found(subtests: pytest.Subtests) -> None:
    templates = ChatTemplates()
    for source, expected in (
        (CHATML, "<|im_end|>\n<|im_start|>user\n"),
        (ALPACA, "</s>\n\n### Instruction:\n"),
        (ONE_QUESTION, ""),
        ("{{ messages[-1].content }}", ""),
        (f"{{% for m in messages %}}{{{{ m.content }}}}{'-' * 201}{{% endfor %}}", ""),
    ):
        with subtests.test(source=source[:30]):
            assert templates.next_turn(ModelTemplate("tiny", source, special_tokens={"eos_token": "</s>"})) == expected
    templates.close()
