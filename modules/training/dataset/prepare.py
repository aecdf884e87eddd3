"""Prepare the data of a run: which rows are trained, which are kept for evaluation, and which cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modules.catalog.record import ModelRecord
from modules.chat.template_files import InstructionTemplates
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.errors import OptionError, Words
from modules.core.events import Json
from modules.engines.training.samples import Sample, joined
from modules.options.option import Value
from modules.training.dataset.conversations import FORMS, Conversation, conversation_of
from modules.training.dataset.errors import BadRows, NothingToTrain
from modules.training.dataset.files import Datasets
from modules.training.dataset.formats import DataFormat, DataFormats
from modules.training.dataset.masking import MaskedText, TemplateMasks
from modules.training.dataset.rows import Row
from modules.training.dataset.special_tokens import special_tokens
from modules.training.dataset.values import BadValue, checked_text, field_texts

BATCH = 64
"""Conversations that are rendered at a time."""
MOST_LISTED = 100
"""Bad rows that are kept with their reasons."""

BadRow = tuple[int, Words]


@dataclass(frozen=True)
class PreparedFile:
    """The samples of one file. `bad` are the first rows that cannot be used, `bad_count` is the number of all.

    `kind` is "chat_template", "dataset" for rows that a data format writes, or "raw_text"; `templates` are the template
    or the texts of the format.
    """

    file: str
    samples: tuple[Sample, ...]
    total: int
    bad: tuple[BadRow, ...] = ()
    bad_count: int = 0
    notes: tuple[Words, ...] = ()
    kind: str = "raw_text"
    templates: tuple[str, ...] = ()

    def require_usable(self, skip_bad_rows: bool) -> None:
        """Raise BadRows if there are any and they may not be skipped, NothingToTrain if no row is left."""
        if self.bad_count and not skip_bad_rows:
            raise BadRows(self.file, self.bad_count, self.total, self.bad)
        if not self.samples:
            listed = self.bad[0][1] if self.bad else {"en": "it has no text", "zh": "没有文本"}
            problem = {"en": f"every row is unusable ({listed['en']})", "zh": f"所有行都无法使用（{listed['zh']}）"}
            raise NothingToTrain(self.file, problem if self.bad else listed)


@dataclass(frozen=True)
class Prepared:
    """The data of a run. `evaluation` is empty if there is none; its file is None if its rows are from `file`."""

    file: PreparedFile
    evaluation_file: PreparedFile | None
    training: tuple[Sample, ...]
    evaluation: tuple[Sample, ...]

    @property
    def notes(self) -> tuple[Words, ...]:
        """The remarks on the template, and on rows that are used differently."""
        more = self.evaluation_file.notes if self.evaluation_file else ()
        return tuple({note["en"]: note for note in (*self.file.notes, *more)}.values())

    @property
    def prompt(self) -> Json:
        """The templates by which rows became text, as the original's training_prompt.json states them."""
        texts = {f"template_{number}": text for number, text in enumerate(self.file.templates, 1)}
        return {"template_type": self.file.kind, **texts}

    def require_usable(self, skip_bad_rows: bool) -> None:
        """Raise BadRows or NothingToTrain if this data cannot be trained."""
        for file in filter(None, (self.file, self.evaluation_file)):
            file.require_usable(skip_bad_rows)


class TrainingData:
    """Datasets and formats in their folders, and how they become the data of a run. Thread-safe."""

    def __init__(
        self, datasets: Datasets, formats: DataFormats, templates: ChatTemplates, files: InstructionTemplates
    ) -> None:
        self.datasets, self.formats = datasets, formats
        self._templates, self._files = templates, files

    def template_of(self, record: ModelRecord, name: str = "") -> ModelTemplate:
        """Return the chat template for conversations with a model, or the one called `name`.

        Raises TemplateNotFound or InvalidTemplateFile.
        """
        template = self._templates.of(record)
        tokens = {**special_tokens(record.path), **template.special_tokens} if record.path.is_dir() else None
        template = replace(template, special_tokens=tokens or template.special_tokens)
        if not name:
            return template
        source = self._files.read(name)
        return replace(template, source=source, named={}, origin="chosen", file=name, fault=None)

    def prepare(self, parameters: Mapping[str, Value], template: ModelTemplate) -> Prepared:
        """Return the data that the parameters of a run describe. It may have bad rows: see `require_usable`.

        Raises OptionError if no data is chosen, DatasetNotFound, FormatNotFound, UnreadableDataset, InvalidFormat, and
        TemplateStopped or NoDefaultTemplate.
        """
        name = str(parameters["raw_text_file"] or parameters["dataset"])
        if not name:
            raise OptionError("dataset", "", {"en": "a file in training/datasets", "zh": " training/datasets 中的文件"})
        file = self._prepare_file(name, parameters, template)
        other, share = str(parameters["eval_dataset"]), float(parameters["eval_share"])
        if other:
            evaluation = self._prepare_file(other, parameters, template)
            return Prepared(file, evaluation, file.samples, evaluation.samples)
        training, held_out = split(file.samples, share)
        usable = file.samples and (parameters["skip_bad_rows"] or not file.bad_count)
        if share and not held_out and usable:  # otherwise, the bad rows are what is to be said
            expected = {"en": "0, because the data is in one piece", "zh": " 0，因为数据只有一段"}
            raise OptionError("eval_share", share, expected)
        return Prepared(file, None, training, held_out)

    def _prepare_file(self, name: str, parameters: Mapping[str, Value], template: ModelTemplate) -> PreparedFile:
        path = self.datasets.path(name)
        if self.datasets.is_text(path):
            return raw_file(path.name, self.datasets.texts(path), parameters)
        data_format = self.formats.read(str(parameters["format"])) if parameters["format"] else None
        masks = TemplateMasks(self._templates, template)
        work = _FileWork(path.name, parameters, masks, self.formats, data_format)
        return work.run(self.datasets.rows(path))


class _FileWork:
    """The rows of one file on their way to samples."""

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Value],
        masks: TemplateMasks,
        formats: DataFormats,
        data_format: DataFormat | None,
    ) -> None:
        self._name, self._parameters, self._masks = name, parameters, masks
        self._formats, self._format = formats, data_format
        self._matching: dict[frozenset[str], DataFormat | None] = {}
        self._samples: list[Sample] = []
        self._bad: list[BadRow] = []
        self._bad_count = self._last_only = self._left_out = self._begins_thought = self._conversations = 0

    def run(self, rows: Sequence[Row]) -> PreparedFile:
        for start in range(0, len(rows), BATCH):
            self._add(rows[start : start + BATCH])
        samples = tuple(sorted(self._samples, key=lambda sample: sample.row))
        kind, templates = self._how()
        bad = tuple(self._bad)
        return PreparedFile(self._name, samples, len(rows), bad, self._bad_count, self._notes(), kind, templates)

    def _how(self) -> tuple[str, tuple[str, ...]]:
        """Return the kind and the templates by which the rows were written; of mixed data, those of conversations."""
        if self._conversations:
            return "chat_template", (self._masks.template.source,)
        formats = [self._format, *self._matching.values()]
        texts = tuple(text for data_format in formats if data_format for text in data_format.texts.values())
        return ("dataset", texts) if texts else ("raw_text", ())

    def _add(self, rows: Sequence[Row]) -> None:
        conversations: list[tuple[int, Conversation]] = []
        for row in rows:
            if row.fields is None:
                self._refuse(row.number, row.problem or {})
                continue
            try:
                conversation = None if self._format else conversation_of(row.fields)
                if conversation is None:
                    self._samples.append(self._written(row.number, row.fields))
                else:
                    conversations.append((row.number, conversation))
            except BadValue as problem:
                self._refuse(row.number, problem.words)
        if not conversations:  # without them, a model need not have a template
            return
        masked = self._masks.mask([conversation for _, conversation in conversations])
        for (number, _), text in zip(conversations, masked, strict=True):
            try:
                self._samples.append(self._masked(number, text))
            except BadValue as problem:
                self._refuse(number, problem.words)

    def _refuse(self, number: int, problem: Words) -> None:
        self._bad_count += 1
        if len(self._bad) < MOST_LISTED:
            self._bad.append((number, problem))

    def _written(self, number: int, fields: Mapping[str, Any]) -> Sample:
        """Return the sample of a row that is no conversation: by a format, or its text. Raises BadValue."""
        eos = bool(self._parameters["add_eos_token"])
        data_format = self._format
        if data_format is None:
            texts = field_texts(fields)
            if "text" in texts:
                return self._checked(Sample(number, ((texts["text"], True),), eos, raw=True))
            data_format = self._format_for(frozenset(texts))
        return self._checked(Sample(number, data_format.segments(fields), eos))

    def _format_for(self, present: frozenset[str]) -> DataFormat:
        if present not in self._matching:
            self._matching[present] = self._formats.matching(present)
        data_format = self._matching[present]
        if data_format is None:
            found = ", ".join(sorted(present))[:200]
            raise BadValue(
                f"its fields ({found or 'none'}) are not known: expected {FORMS}, or those of a data format",
                f"字段（{found or '无'}）无法识别：应为 {FORMS}，或某个数据格式的字段",
            )
        return data_format

    def _masked(self, number: int, text: MaskedText | BadValue) -> Sample:
        if isinstance(text, BadValue):
            raise text
        sample = self._checked(Sample(number, text.segments, text.eos and bool(self._parameters["add_eos_token"])))
        self._conversations += 1
        self._last_only += text.last_only
        self._left_out += text.left_out
        self._begins_thought += text.begins_thought
        return sample

    def _checked(self, sample: Sample) -> Sample:
        """Return the sample with the parts that `train_on` asks for. Raises BadValue if there are none."""
        checked_text(sample.text, "the row")
        choice = self._parameters["train_on"]
        if choice == "all":
            sample = replace(sample, segments=joined([(sample.text, True)]))
        elif choice == "after":
            sample = replace(sample, segments=_after(sample.text, str(self._parameters["train_only_after"])))
        if not any(trained and text.strip() for text, trained in sample.segments):
            raise BadValue("nothing in it is trained", "其中没有可训练的内容")
        return sample

    def _notes(self) -> tuple[Words, ...]:
        template = self._masks.template
        notes: list[Words] = []
        if self._conversations:
            notes += [note.text for note in self._masks.templates.notes(template) if template.is_ours]
        if self._last_only:
            notes.append(_counted(_LAST_ONLY, self._last_only))
        if self._left_out:
            notes.append(_counted(_LEFT_OUT, self._left_out))
        if self._begins_thought:
            notes.append(_counted(_BEGINS_THOUGHT, self._begins_thought))
        return tuple(notes)


_LAST_ONLY: Words = {
    "en": "The chat template writes earlier answers differently, so only the last one is trained ({count} rows).",
    "zh": "聊天模板会改写较早的回答，因此只训练最后一个回答（{count} 行）。",
}
_LEFT_OUT: Words = {
    "en": "The chat template changes answers or leaves out parts of them, such as thoughts ({count} rows).",
    "zh": "聊天模板会更改回答或略去其中一部分，例如思考过程（{count} 行）。",
}

_BEGINS_THOUGHT: Words = {
    "en": "The prompt of the chat template begins a thought, which these answers do not have ({count} rows), so the "
    "model is trained otherwise than it is asked. Choose an instruction template without thoughts for both.",
    "zh": "聊天模板的提示词会开启一段思考，而这些回答没有思考（{count} 行），提问与训练的格式因此不同。"
    "请在训练和对话时都选用不带思考的指令模板。",
}


def _counted(words: Words, count: int) -> Words:
    return {language: text.format(count=count) for language, text in words.items()}


def _after(text: str, mark: str) -> tuple[tuple[str, bool], ...]:
    mark = unescaped(mark)
    before, found, after = text.rpartition(mark)
    if not found:
        shown = repr(mark[:40])
        raise BadValue(f"it does not contain {shown}", f"其中没有 {shown}")
    return joined([(before + mark, False), (after, True)])


def unescaped(text: str) -> str:
    """Return a text of the form with line breaks and tabs for \\n and \\t, as the original reads it."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def raw_file(name: str, texts: Iterable[str], parameters: Mapping[str, Value]) -> PreparedFile:
    """Return the texts of a file or folder, separated at hard cuts. Blank ones do not count."""
    mark, shortest = unescaped(str(parameters["hard_cut_string"])), int(parameters["min_chars"])
    blocks = [block for text in texts for block in (text.split(mark) if mark else [text]) if block.strip()]
    samples: list[Sample] = []
    bad: list[BadRow] = []
    ignored = 0
    for number, block in enumerate(blocks, 1):
        if len(block) <= shortest:
            ignored += 1
        elif "\0" in block:
            bad.append((number, {"en": "it contains the character NUL", "zh": "含 NUL 字符"}))
        else:
            samples.append(Sample(number, ((block, True),), bool(parameters["add_eos_token"]), raw=True))
    note = {
        "en": f"{ignored} texts of at most {shortest} characters are ignored.",
        "zh": f"已忽略 {ignored} 段不超过 {shortest} 个字符的文本。",
    }
    notes = (note,) if ignored else ()
    return PreparedFile(name, tuple(samples), len(blocks), tuple(bad[:MOST_LISTED]), len(bad), notes)


def split(samples: Sequence[Sample], share: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Divide samples into those for training and those for evaluation, about `share` of them.

    It depends on the text of each sample alone, so that equal texts stay together, and later additions move none. A
    share above 0 leaves at least one sample of different text on each side, if there are two.
    """
    ranks = [_rank(sample) for sample in samples]
    if not share or len(set(ranks)) < 2:
        return tuple(samples), ()
    limit = min(max(share, min(ranks)), max(rank for rank in ranks if rank < max(ranks)))
    held_out = [rank <= limit for rank in ranks]
    pairs = list(zip(samples, held_out, strict=True))
    return tuple(sample for sample, out in pairs if not out), tuple(sample for sample, out in pairs if out)


def _rank(sample: Sample) -> float:
    """Return a number from 0 to 1 that depends on the text alone."""
    digest = hashlib.sha256(sample.text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
