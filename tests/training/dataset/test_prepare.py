"""Files of data become samples; rows that cannot be used are listed with their reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.record import ModelRecord
from modules.chat.template_files import InstructionTemplates
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.engines.training.samples import Sample
from modules.training.dataset.errors import BadRows, DatasetNotFound, FormatNotFound, NothingToTrain, UnreadableDataset
from modules.training.dataset.files import Datasets
from modules.training.dataset.formats import DataFormats
from modules.training.dataset.prepare import Prepared, TrainingData, split
from modules.training.parameters import parse_parameters
from tests.support.template_table import CHATML

FORMATS = ROOT / "training" / "formats"
TEMPLATE = ModelTemplate("tiny", CHATML, special_tokens={"eos_token": "<|im_end|>"})
Q, A = "What is 1 + 1?", "Two."
CHAT = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
AS_CHATML = f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\n"

Prepare = Callable[..., Prepared]


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplates]:
    templates = ChatTemplates()
    yield templates
    templates.close()


@pytest.fixture
def data(tmp_path: Path, templates: ChatTemplates) -> TrainingData:
    folder = tmp_path / "datasets"
    folder.mkdir()
    files = InstructionTemplates(tmp_path / "instruction-templates")
    return TrainingData(Datasets(folder), DataFormats(FORMATS), templates, files)


@pytest.fixture
def prepare(data: TrainingData) -> Prepare:
    """Write a file of data and prepare it with some parameters."""

    def prepare(name: str, content: str | bytes | list[Any], **parameters: Any) -> Prepared:
        if isinstance(content, list):
            content = json.dumps(content)
        encoded = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (data.datasets.folder / name).write_bytes(encoded)
        chosen = {} if "raw_text_file" in parameters else {"dataset": name}
        return data.prepare(parse_parameters(chosen | parameters), TEMPLATE)

    return prepare


def texts(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.text for sample in samples]


def trained(sample: Sample) -> str:
    return "".join(text for text, is_trained in sample.segments if is_trained)


ROWS_OF_ONE_CONVERSATION: Mapping[str, dict[str, Any]] = {
    "messages": {"messages": CHAT},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, CHAT[1]]},
    "ShareGPT": {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
    "an instruction": {"instruction": Q, "input": "", "output": A},
    "tools as text": {"messages": CHAT, "tools": "[]"},
    "a prompt": {"prompt": Q, "completion": A},
    "a prompt of messages": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "a question": {"question": Q, "answer": A, "id": 7},
    "a trailing question": {"messages": [*CHAT, CHAT[0]]},
    "an empty system message": {"messages": [{"role": "system", "content": ""}, *CHAT]},
    "missing values": {"instruction": Q, "input": None, "output": A, "system": " ", "history": []},
}


def test_the_published_forms_of_rows_are_conversations(prepare: Prepare, subtests: pytest.Subtests) -> None:
    prepared = prepare("rows.json", list(ROWS_OF_ONE_CONVERSATION.values()))
    assert prepared.file.bad == ()
    for name, sample in zip(ROWS_OF_ONE_CONVERSATION, prepared.training, strict=True):
        with subtests.test(name):
            assert (sample.text, trained(sample)) == (AS_CHATML, f"{A}<|im_end|>")


def test_input_system_and_history_are_part_of_the_conversation(prepare: Prepare) -> None:
    row = {"instruction": Q, "input": "In words.", "output": A, "system": "Be brief.", "history": [["a", "b"]]}
    (sample,) = prepare("rows.json", [row]).training
    assert sample.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>")
    assert f"{Q}\n\nIn words." in sample.text
    assert trained(sample) == f"b<|im_end|>{A}<|im_end|>"


def test_json_lines_csv_and_a_byte_order_mark_are_read(prepare: Prepare, subtests: pytest.Subtests) -> None:
    row = json.dumps({"question": Q, "answer": A})
    files = {
        "rows.jsonl": f"{row}\n\n{row}",
        "rows.json": f"{row}\n{row}\n",  # JSON lines under another name
        "bom.json": b"\xef\xbb\xbf[" + row.encode() + b"," + row.encode() + b"]",
        "rows.csv": f'question,answer\r\n"{Q}",{A}\r\n{Q},"{A}"\r\n',
        "semicolons.csv": f"\ufeffquestion;answer\n{Q};{A}\n\n{Q};{A}",
        "rows.tsv": f"question\tanswer\n{Q}\t{A}\n{Q}\t{A}\n",
    }
    for name, content in files.items():
        with subtests.test(name):
            assert texts(prepare(name, content).training) == [AS_CHATML] * 2


def test_a_text_of_a_row_is_raw(prepare: Prepare) -> None:
    (sample,) = prepare("rows.jsonl", '{"text": "All of it.", "source": "x"}').training
    assert (sample.segments, sample.eos, sample.raw) == ((("All of it.", True),), True, True)


def test_a_chosen_format_writes_rows_and_trains_their_answer(prepare: Prepare) -> None:
    row = {"instruction": Q, "input": "%output%", "output": A, "id": 3}
    (sample,) = prepare("rows.json", [row], format="ChatML").training
    assert sample.text == f"<|im_start|>user\n{Q}\n\n%output%<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>"
    assert trained(sample) == f"{A}<|im_end|>"


def test_rows_that_are_no_conversations_are_written_by_the_format_for_their_fields(
    tmp_path: Path, templates: ChatTemplates
) -> None:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "titles.json").write_text('{"title,story": "# %title%\\n%story%"}')
    (tmp_path / "rows.json").write_text('[{"story": "Once.", "title": "A"}, {"title": "B"}]')
    files = InstructionTemplates(tmp_path / "instruction-templates")
    data = TrainingData(Datasets(tmp_path), DataFormats(tmp_path / "formats"), templates, files)
    prepared = data.prepare(parse_parameters({"dataset": "rows"}), TEMPLATE)
    assert texts(prepared.training) == ["# A\nOnce."] and [number for number, _ in prepared.file.bad] == [2]
    assert prepared.prompt == {"template_type": "dataset", "template_1": "# %title%\n%story%"}


def test_every_shipped_format_ends_with_the_answer(data: TrainingData, subtests: pytest.Subtests) -> None:
    assert data.formats.names() == ["alpaca", "alpaca-chatbot", "ChatML", "llama2-chat", "vicuna"]
    for name in data.formats.names():
        for keys in data.formats.read(name).texts:
            with subtests.test(name, keys=sorted(keys)):
                segments = data.formats.read(name).segments({key: f"({key})" for key in keys})
                assert [is_trained for _, is_trained in segments] == [False, True]
                assert segments[1][0].startswith("(output)")


def test_what_is_trained_can_be_chosen(prepare: Prepare) -> None:
    (everything,) = prepare("rows.json", [{"messages": CHAT}], train_on="all").training
    assert trained(everything) == AS_CHATML
    (rest,) = prepare("rows.json", [{"messages": CHAT}], train_on="after", train_only_after="assistant\\n").training
    assert trained(rest) == f"{A}<|im_end|>\n"


BAD_ROWS: Mapping[str, tuple[Any, str]] = {
    "no object": (5, "not an object"),
    "an empty answer": ({"instruction": Q, "output": "  "}, "output is empty"),
    "an empty turn": ({"messages": [{"role": "user", "content": ""}, CHAT[1]]}, r"messages\[1\] \(user\) is empty"),
    "no answer": ({"messages": CHAT[:1]}, "no answer"),
    "an unknown role": ({"messages": [{"role": "king", "content": "x"}]}, "unknown role 'king'"),
    "no message": ({"conversations": ["x"]}, "not a message"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not text"),
    "a list as a text": ({"question": ["x"], "answer": A}, "question is not a text"),
    "a broken history": ({"instruction": Q, "output": A, "history": [["x"]]}, "history"),
    "a history that is no list": ({"instruction": Q, "output": A, "history": "x"}, "history is not a list of pairs"),
    "unknown fields": ({"a": "x", "b": "y"}, r"fields \(a, b\) are not known"),
    "no fields": ({"a": None}, r"fields \(none\)"),
    "broken tools": ({"messages": CHAT, "tools": "[{"}, "tools is not JSON"),
    "tools that are no list": ({"messages": CHAT, "tools": {"a": 1}}, "tools is not a list"),
    "NUL": ({"text": "a\0b"}, "NUL"),
    "half of a character": ({"text": "a\ud800b"}, "half of a character"),
    "a huge text": ({"text": "a" * 1_000_001}, "more than 1,000,000 characters"),
    "blank text": ({"text": " \n"}, "fields"),
}


def test_a_row_that_cannot_be_used_has_a_reason(prepare: Prepare, subtests: pytest.Subtests) -> None:
    prepared = prepare("rows.json", [row for row, _ in BAD_ROWS.values()])
    assert prepared.file.bad_count == len(BAD_ROWS)
    for (name, (_, reason)), (_, words) in zip(BAD_ROWS.items(), prepared.file.bad, strict=True):
        with subtests.test(name):
            assert re.search(reason, words["en"]), words["en"]
            assert words["zh"] != words["en"]


def test_a_row_that_the_template_refuses_is_a_bad_row(data: TrainingData) -> None:
    (data.datasets.folder / "rows.json").write_text(json.dumps([{"messages": CHAT}, {"messages": CHAT, "tools": [{}]}]))
    refusing = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML
    prepared = data.prepare(parse_parameters({"dataset": "rows"}), ModelTemplate("tiny", refusing))
    assert texts(prepared.training) == [AS_CHATML]
    ((number, words),) = prepared.file.bad
    assert number == 2 and "no tools" in words["en"] and "no tools" in words["zh"]


def test_a_row_of_which_the_choice_leaves_nothing_to_train_is_a_bad_row(
    prepare: Prepare, subtests: pytest.Subtests
) -> None:
    for mark, reason in {
        "### Answer:\\n": r"does not contain '### Answer:\\n'",
        "<|im_end|>": "nothing in it is trained",
    }.items():
        with subtests.test(mark=mark):
            ((_, words),) = prepare("rows.json", [{"messages": CHAT}], train_on="after", train_only_after=mark).file.bad
            assert re.search(reason, words["en"]) and words["zh"] != words["en"]


def test_what_a_template_does_to_answers_is_noted_with_the_number_of_rows(
    data: TrainingData, subtests: pytest.Subtests
) -> None:
    thought = CHATML[: -len("{% endif %}")] + "<think>\n{% endif %}"
    upper = CHATML.replace("message['content']", "(message['content'] if loop.last else message['content'] | upper)")
    cases = {
        "so only the last one is trained (2 rows)": upper,
        "leaves out parts of them, such as thoughts (2 rows)": CHATML.replace("message['content']", "'?'"),
        "begins a thought, which these answers do not have (2 rows)": thought,
    }
    (data.datasets.folder / "rows.json").write_text(json.dumps([{"messages": [*CHAT, *CHAT]}] * 2))
    for note, source in cases.items():
        with subtests.test(note):
            prepared = data.prepare(parse_parameters({"dataset": "rows"}), ModelTemplate("tiny", source))
            assert any(note in words["en"] for words in prepared.notes), prepared.notes
            assert all("2 行" in words["zh"] for words in prepared.notes)


def test_bad_rows_stop_a_run_unless_they_may_be_skipped(prepare: Prepare) -> None:
    rows = [{"question": Q, "answer": A}, {"question": Q}, {"question": Q, "answer": ""}]
    prepared = prepare("rows.json", rows)
    with pytest.raises(BadRows, match=r"2 of 3 rows of rows\.json .* row 2: .*; row 3: answer is empty"):
        prepared.require_usable(skip_bad_rows=False)
    prepared.require_usable(skip_bad_rows=True)
    assert len(prepared.training) == 1
    with pytest.raises(NothingToTrain, match="every row"):
        prepare("rows.json", rows[1:]).require_usable(skip_bad_rows=True)


def test_raw_texts_are_separated_at_hard_cuts_and_lose_nothing(prepare: Prepare, data: TrainingData) -> None:
    prepared = prepare("book.txt", "one\ntwo\n\n\nx\n\n\n three ", raw_text_file="book.txt", min_chars=1)
    assert texts(prepared.training) == ["one\ntwo", " three "]
    assert all(sample.raw and sample.eos for sample in prepared.training)
    assert "1 texts" in prepared.notes[0]["en"]
    windows = prepare("book.txt", "one\r\ntwo\r\n\r\n\r\nthree", raw_text_file="book.txt")
    assert texts(windows.training) == ["one\ntwo", "three"]
    damaged = prepare("book.txt", "one\n\n\ntw\0o", raw_text_file="book.txt")
    assert texts(damaged.training) == ["one"] and [number for number, _ in damaged.file.bad] == [2]
    whole = prepare("book.txt", "a\n\n\nb", raw_text_file="book", hard_cut_string="")
    assert texts(whole.training) == ["a\n\n\nb"]


def test_the_texts_of_a_folder_are_in_natural_order(data: TrainingData) -> None:
    folder = data.datasets.folder / "books"
    folder.mkdir()
    for number in (10, 9, 1):
        (folder / f"{number}.txt").write_text(f"text {number}")
    (folder / "notes.md").write_text("no")
    prepared = data.prepare(parse_parameters({"dataset": "books"}), TEMPLATE)
    assert texts(prepared.training) == ["text 1", "text 9", "text 10"]
    assert data.datasets.names() == data.datasets.text_names() == ["books"]


def test_the_share_for_evaluation_depends_on_the_rows_alone(prepare: Prepare) -> None:
    rows = [{"text": f"text {number}"} for number in range(200)]
    prepared = prepare("rows.json", rows, eval_share=0.1)
    assert 8 <= len(prepared.evaluation) <= 34
    assert len(prepared.training) + len(prepared.evaluation) == 200
    more = prepare("rows.json", [{"text": "another"}, *reversed(rows), rows[0]], eval_share=0.1)
    assert set(texts(prepared.evaluation)) <= set(texts(more.evaluation))
    assert not set(texts(more.evaluation)) & set(texts(more.training))


def test_a_share_leaves_rows_on_both_sides() -> None:
    two = [Sample(number, ((f"text {number}", True),)) for number in range(2)]
    for share in (0.0001, 0.5):
        assert [len(side) for side in split(two, share)] == [1, 1]
    assert split(two[:1], 0.5) == ((two[0],), ())


def test_bad_rows_are_reported_before_a_share_of_what_is_left(prepare: Prepare) -> None:
    with pytest.raises(BadRows):
        prepare("rows.json", [{"text": "a"}, 5], eval_share=0.1).require_usable(skip_bad_rows=False)
    with pytest.raises(NothingToTrain):
        prepare("rows.json", [5], eval_share=0.1, skip_bad_rows=True).require_usable(skip_bad_rows=True)


def test_how_rows_became_text_is_kept_for_the_lora(prepare: Prepare) -> None:
    rows = [{"instruction": Q, "output": A}]
    assert prepare("rows.json", rows).prompt == {"template_type": "chat_template", "template_1": CHATML}
    written = prepare("rows.json", rows, format="vicuna").prompt
    assert (written["template_type"], written["template_1"]) == (
        "dataset",
        "USER: %instruction% ASSISTANT: %output%",
    )
    assert prepare("book.txt", "text", raw_text_file="book.txt").prompt == {"template_type": "raw_text"}


def test_an_evaluation_dataset_is_prepared_as_well(prepare: Prepare, data: TrainingData) -> None:
    (data.datasets.folder / "other.jsonl").write_text('{"text": "other"}\n{"txt": 1}')
    prepared = prepare("rows.json", [{"text": "a"}], eval_dataset="other.jsonl")
    assert texts(prepared.evaluation) == ["other"]
    with pytest.raises(BadRows, match=r"other\.jsonl"):
        prepared.require_usable(skip_bad_rows=False)


def test_a_share_of_a_single_text_is_refused(prepare: Prepare) -> None:
    with pytest.raises(OptionError, match="eval_share"):
        prepare("rows.json", [{"text": "a"}], eval_share=0.1)


def test_names_lead_nowhere_else(data: TrainingData, tmp_path: Path, subtests: pytest.Subtests) -> None:
    (tmp_path / "secret.json").write_text("[]")
    for name in ("../secret.json", "../secret", str(tmp_path / "secret.json"), ".", "..", "a\0b", "\ud800", "nothing"):
        with subtests.test(ascii(name)), pytest.raises(DatasetNotFound):
            data.prepare(parse_parameters({"dataset": name}), TEMPLATE)
    assert data.formats.read("alpaca-format") == data.formats.read("alpaca")  # its name in the original
    with pytest.raises(FormatNotFound, match="vicuna"):
        data.formats.read("../formats/vicuna")
    with pytest.raises(OptionError, match="dataset"):
        data.prepare(parse_parameters({}), TEMPLATE)


def test_the_template_of_an_unloaded_model_knows_its_special_tokens(data: TrainingData, tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    record = ModelRecord("tiny", tmp_path, "safetensors", 1, chat_template=CHATML)
    assert data.template_of(record).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    with (tmp_path / "special_tokens_map.json").open("wb") as file:
        file.write(b'{"unk_token": "<unk>"}')
        file.truncate(20_000_001)  # too large for what it is: not read
    assert data.template_of(record).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    data._files.save("mine", "{{ messages[0].content }}")
    assert data.template_of(record, "mine").source == "{{ messages[0].content }}"


def test_a_model_without_a_template_is_trained_in_the_format_that_it_is_asked_in(data: TrainingData) -> None:
    (data.datasets.folder / "rows.json").write_text(json.dumps([{"messages": CHAT}]))
    prepared = data.prepare(parse_parameters({"dataset": "rows"}), ModelTemplate("bare", ""))
    assert "### Response:" in prepared.training[0].text
    assert "Alpaca" in prepared.notes[0]["en"]


UNREADABLE: Mapping[str, tuple[str, bytes, str]] = {
    "parquet": ("a.parquet", b"PAR1", "pandas.read_parquet"),
    "an archive": ("a.json.gz", b"\x1f\x8b", "unpack"),
    "another kind": ("a.docx", b"PK", r"\.jsonl"),
    "nothing": ("a.json", b"\xef\xbb\xbf\n", "no rows"),
    "no rows": ("a.json", b"[]", "no rows"),
    "an object": ("a.json", b"{}", "list of rows"),
    "a lone value": ("a.json", b"3", "list of rows"),
    "Latin-1": ("a.json", b'[{"text": "caf\xe9"}]', r"byte 14 \(0xE9, in line 1\)"),
    "UTF-16": ("a.csv", "text\na".encode("utf-16"), "UTF-16"),
    "a deep list": ("a.json", b"[" * 100_000, "nested too deeply"),
    "a long number": ("a.json", b"[" + b"9" * 5000 + b"]", "number that is too long"),
    "only a header": ("a.csv", b"text\n", "no rows"),
    "an open quotation mark": ("a.csv", b'text\n"abc\n', "CSV is invalid"),
    "two columns of one name": ("a.csv", b"text,text\na,b\n", "two columns"),
    "blank text": ("a.txt", b" \n ", "no text"),
}


def test_a_file_that_is_no_data_is_refused_with_a_sentence(prepare: Prepare, subtests: pytest.Subtests) -> None:
    for name, (file, content, reason) in UNREADABLE.items():
        with subtests.test(name), pytest.raises(UnreadableDataset, match=reason) as refusal:
            prepare(file, content)
        assert file in refusal.value.say("zh")


def test_data_that_is_too_large_is_refused(
    data: TrainingData, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr("modules.training.dataset.rows.MAX_ROWS", 3)
    with subtests.test(what="rows"), pytest.raises(UnreadableDataset, match="more than 3 rows"):
        prepare("rows.json", [{"text": "a"}] * 4)
    assert len(prepare("rows.json", [{"text": "a"}] * 3).training) == 3
    monkeypatch.setattr("modules.training.dataset.rows.MAX_BYTES", 1_000_000)
    with subtests.test(what="bytes"), pytest.raises(UnreadableDataset, match="more than 1 MB"):
        prepare("rows.jsonl", b" " * 1_000_001)
    monkeypatch.setattr("modules.training.dataset.files.MAX_BYTES", 1_000_000)
    (data.datasets.folder / "books").mkdir()
    for number in range(3):
        (data.datasets.folder / "books" / f"{number}.txt").write_text("a" * 400_000)
    with subtests.test(what="a folder of small files"), pytest.raises(UnreadableDataset, match="1 million characters"):
        data.prepare(parse_parameters({"raw_text_file": "books"}), TEMPLATE)


def test_a_file_that_the_disk_does_not_give_is_refused_with_the_reason(data: TrainingData) -> None:
    (data.datasets.folder / "rows.json").symlink_to("/proc/self/mem")  # a regular file whose first byte cannot be read
    with pytest.raises(UnreadableDataset, match="Input/output error") as refusal:
        data.prepare(parse_parameters({"dataset": "rows"}), TEMPLATE)
    assert "磁盘报告" in refusal.value.say("zh")


def test_a_folder_of_datasets_need_not_exist(tmp_path: Path) -> None:
    datasets = Datasets(tmp_path / "none")
    assert datasets.names() == []
    with pytest.raises(DatasetNotFound):
        datasets.path("rows")


def test_an_empty_folder_is_no_dataset(data: TrainingData) -> None:
    (data.datasets.folder / "empty").mkdir()
    assert data.datasets.names() == []
    with pytest.raises(UnreadableDataset, match=r"no \.txt files"):
        data.prepare(parse_parameters({"raw_text_file": "empty"}), TEMPLATE)


def test_broken_lines_and_records_are_bad_rows(prepare: Prepare) -> None:
    content = '{"text": "a"}\n{"text": "b"\n[1]\n' + "[" * 99_999 + '\n{"text": ' + "9" * 5000 + "}"
    lines = prepare("rows.jsonl", content)
    assert [number for number, _ in lines.file.bad] == [2, 3, 4, 5]
    assert lines.file.bad[-1][1]["en"] == "a number that is too long"
    records = prepare("rows.csv", "text,id\na,1\nb\nc,3,4\n")
    assert [number for number, _ in records.file.bad] == [2, 3]


def test_data_broken_at_any_byte_gives_samples_or_a_sentence(prepare: Prepare) -> None:
    row = {"messages": [{"role": "user", "content": '问 \\ " \u2028'}, CHAT[1]], "n": 1.5}
    whole = json.dumps([row, {"text": "é\n"}], ensure_ascii=False).encode()
    table = 'question,answer\r\n"a\r\n""b",c\r\né,f'.encode()
    for name, content in {"a.json": whole, "a.jsonl": whole[1:-1], "a.csv": table}.items():
        for cut in range(len(content)):
            for damaged in (content[:cut], content[:cut] + content[cut + 1 :]):
                try:
                    prepared = prepare(name, damaged)
                except UnreadableDataset as refusal:
                    assert refusal.problem["en"]
                else:
                    assert prepared.training or prepared.file.bad_count
