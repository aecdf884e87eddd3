"""Requests for evaluations: as the page, the API and the command line ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.core.errors import OptionError
from modules.options.evaluation import EVALUATION, STRIDE
from modules.options.option import parse_all

MAX_SUBJECTS = 64
MAX_KL_WINDOWS = 16


@dataclass(frozen=True)
class Subject:
    """A model to evaluate. Without `model`, the page's model as it is loaded, without a reload.

    `loader` empty and `loras` None leave the choice to the planner, which takes what is saved for the model; `options`
    are raw values of load options.
    """

    model: str = ""
    loader: str = ""
    loras: Mapping[str, float] | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation of models on a text, one after the other; the first is the one that others are compared with.

    `text` is the name of a text. `may_unload` agrees that other models are unloaded where memory is short. With
    `skip_tested`, models whose result is in the table, with all hashes and windows alike, are not evaluated again,
    unless their distributions are compared.
    """

    text: str
    subjects: tuple[Subject, ...] = (Subject(),)
    method: str = "rolling"
    stride: int = 512
    max_length: int = 0
    windows: int = 0
    bos: str = "auto"
    kl: bool = False
    may_unload: bool = False
    skip_tested: bool = False

    @staticmethod
    def parse(
        text: str,
        subjects: tuple[Subject, ...],
        options: Mapping[str, object],
        may_unload: bool = False,
        skip_tested: bool = False,
    ) -> EvaluationRequest:
        """Return a request with validated options, of which those left out have their defaults.

        Raises OptionError or UnknownOption.
        """
        values = {key: option.default for key, option in EVALUATION.items()} | parse_all(EVALUATION, options)
        if not 1 <= len(subjects) <= MAX_SUBJECTS:
            expected = {"en": f"1 to {MAX_SUBJECTS} models", "zh": f"1 到 {MAX_SUBJECTS} 个模型"}
            raise OptionError("models", len(subjects), expected)
        stride, length = int(values["stride"]), int(values["max_length"])
        if values["method"] == "rolling" and length and stride > length and STRIDE.key in options:
            expected = {"en": f"at most max_length, {length}", "zh": f"不大于最大长度 {length} 的数"}
            raise OptionError(STRIDE.key, stride, expected)
        return EvaluationRequest(
            text,
            subjects,
            str(values["method"]),
            stride,
            length,
            int(values["windows"]),
            str(values["bos"]),
            bool(values["kl"]),
            may_unload,
            skip_tested,
        )
