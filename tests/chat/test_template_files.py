"""Instruction templates in files: read in all formats, saved whole, deleted and brought back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modules.chat.errors import InvalidTemplateFile, TemplateNotFound
from modules.chat.template_files import MAX_BYTES, InstructionTemplates
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.errors import NameTaken, OptionError, SettingsError
from modules.core.paths import ROOT

SOURCE = "{% for m in messages %}\n{{ m.content }}{% endfor %}\n"


@pytest.fixture
def templates(tmp_path: Path) -> InstructionTemplates:
    return InstructionTemplates(tmp_path / "instruction-templates")


def put(templates: InstructionTemplates, name: str, content: str | bytes) -> None:
    templates.folder.mkdir(exist_ok=True)
    (templates.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_saved_template_is_read_byte_for_byte(templates: InstructionTemplates) -> None:
    assert templates.names() == []
    templates.save("My 模板 1.0", SOURCE)
    assert templates.names() == ["My 模板 1.0"]
    assert templates.read("My 模板 1.0") == SOURCE
    assert (templates.folder / "My 模板 1.0.jinja").read_bytes() == SOURCE.encode()


def test_files_of_the_original_are_read(templates: InstructionTemplates) -> None:
    put(templates, "New.yaml", "instruction_template: |-\n  {%- for m in messages %}\n  {{ m.content }}{% endfor %}\n")
    put(
        templates, "Old.yml", 'user: "U:"\nbot: "B:"\nturn_template: "<|user|><|user-message|><|bot|><|bot-message|>"\n'
    )
    put(templates, "Plain.jinja", SOURCE)
    put(templates, "Second.jinja2", "\ufeff" + SOURCE)
    put(templates, "notes.txt", "no template")
    assert templates.names() == ["New", "Old", "Plain", "Second"]
    assert templates.read("New") == "{%- for m in messages %}\n{{ m.content }}{% endfor %}"
    assert "'U:'" in templates.read("Old")
    assert templates.read("Plain") == templates.read("Second") == SOURCE
    assert all(file.problem is None for file in templates.files())


def test_a_changed_file_is_read_again(templates: InstructionTemplates) -> None:
    put(templates, "A.jinja", "one")
    assert templates.read("A") == "one"
    put(templates, "A.jinja", "three")
    assert templates.read("A") == "three"


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty.jinja": (" \n", "it is empty"),
    "binary.jinja": (b"\xff\xfe\x00", "it is not UTF-8 text"),
    "large.jinja": ("x" * (MAX_BYTES + 1), "it has more than 1,000,000 bytes"),
    "syntax.yaml": ("a: [1\n", "line 2"),
    "list.yaml": ("- a\n", "expected lines of"),
    "nothing.yaml": ("user: a\n", "neither instruction_template nor turn_template"),
    "turn.yaml": ("turn_template: abc\n", "turn_template has no"),
    "number.yaml": ("instruction_template: 5\n", "neither instruction_template"),
    "raw.yaml": (SOURCE, "line 1"),
}


def test_a_broken_file_is_listed_with_what_is_wrong(templates: InstructionTemplates, subtests: pytest.Subtests) -> None:
    for name, (content, _) in BROKEN.items():
        put(templates, name, content)
    problems = {file.name: file.problem for file in templates.files()}
    for name, (_, words) in BROKEN.items():
        with subtests.test(name):
            problem = problems[name.rpartition(".")[0]]
            assert problem is not None and words in str(problem) and name in problem.say("zh")
            with pytest.raises(InvalidTemplateFile):
                templates.read(name.rpartition(".")[0])


def test_a_file_that_cannot_be_read_is_listed_with_the_reason_until_it_can(templates: InstructionTemplates) -> None:
    templates.folder.mkdir()
    (templates.folder / "A.jinja").symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    (file,) = templates.files()
    assert file.name == "A" and "error" in str(file.problem)
    with pytest.raises(InvalidTemplateFile, match=r"A\.jinja"):
        templates.read("A")
    (templates.folder / "A.jinja").unlink()
    put(templates, "A.jinja", SOURCE)
    assert templates.read("A") == SOURCE and templates.files()[0].problem is None


def test_a_template_is_replaced_only_on_request(templates: InstructionTemplates) -> None:
    put(templates, "A.yaml", "instruction_template: old\n")
    with pytest.raises(NameTaken, match="already taken"):
        templates.save("A", "new")
    assert templates.read("A") == "old"
    templates.save("A", "new", replace=True)
    assert templates.read("A") == "new" and templates.names() == ["A"]
    assert not (templates.folder / "A.yaml").exists(), "one name, one template"


def test_a_deleted_template_can_be_brought_back(templates: InstructionTemplates) -> None:
    put(templates, "A.yaml", "instruction_template: a\n")
    templates.delete("A")
    assert templates.names() == []
    with pytest.raises(TemplateNotFound):
        templates.delete("A")
    templates.restore("A")
    assert templates.read("A") == "a"
    with pytest.raises(NameTaken, match="already taken"):
        templates.restore("A")
    with pytest.raises(TemplateNotFound):
        templates.restore("never")


def test_names_and_sources_are_checked(templates: InstructionTemplates, subtests: pytest.Subtests) -> None:
    put(templates, "A.jinja", "a")
    for name in ("", "..", "../A", "a/b", "con", "x" * 201, ".hidden", "a\nb", "\ud800"):
        with subtests.test(ascii(name)):
            with pytest.raises(OptionError):
                templates.save(name, "x")
            for act in (templates.read, templates.delete, templates.restore):
                with pytest.raises(TemplateNotFound):
                    act(name)
    for source in ("", "  \n", "x" * (MAX_BYTES + 1)):
        with subtests.test(len(source)), pytest.raises(OptionError):
            templates.save("B", source)
    assert [path.name for path in templates.folder.glob("[!.]*")] == ["A.jinja"]


def test_a_disk_that_refuses_is_an_error_that_names_the_template(tmp_path: Path) -> None:
    (tmp_path / "instruction-templates").write_text("a file in place of the folder")
    templates = InstructionTemplates(tmp_path / "instruction-templates")
    with pytest.raises(SettingsError, match="instruction-templates"):
        templates.save("A", "x")


def test_the_shipped_templates_mark_the_roles(subtests: pytest.Subtests) -> None:
    shipped, renderer = InstructionTemplates(ROOT / "instruction-templates"), ChatTemplates()
    chat = [
        {"role": role, "content": text} for role, text in (("user", "one"), ("assistant", "two"), ("user", "three"))
    ]
    system = {"role": "system", "content": "zero"}
    assert {"Alpaca", "ChatML", "Llama-v3", "Mistral", "Vicuna-v1.1"} <= set(shipped.names())
    ends = {
        "Alpaca": "three\n\n### Response:\n",
        "ChatML": "three<|im_end|>\n<|im_start|>assistant\n",
        "Mistral": " [/INST]",
    }
    for file in shipped.files():
        with subtests.test(file.name):
            template = ModelTemplate("tiny", shipped.read(file.name))
            prompt = renderer.render(template, [system, *chat])
            assert re.fullmatch(r"(?s).*zero.*one.+two.+three.+", prompt)
            assert prompt.endswith(ends.get(file.name, ""))
            begun = renderer.render(template, [*chat[:1], {"role": "assistant", "content": "tw "}], continue_last=True)
            assert begun.endswith("tw ")
