"""What a request's body may hold. Whatever does not fit becomes an OptionError that names the field.

Only what has a shape of its own stands here; the generation parameters beside it are `model_extra`, which
`parameters.py` settles by the same tables as the page's sliders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from starlette.exceptions import HTTPException

from modules.core.errors import OptionError, UnknownOption, WebUIError, Words
from modules.options.option import nearest

SHOWN = 80
"""So many characters of a refused value are repeated in the answer."""


@dataclass(frozen=True)
class Expected:
    """What a field has to be, as the end of a sentence. Stands in the field's annotation."""

    en: str
    zh: str

    @property
    def words(self) -> Words:
        return {"en": self.en, "zh": self.zh}


def _encodable(text: str) -> str:
    """JSON can spell half a character (a lone surrogate), which no tokenizer can read."""
    text.encode()  # UnicodeEncodeError is a ValueError, which pydantic expects
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Tokens = list[Annotated[int, Field(ge=0, lt=2**31)]]
Flag = Annotated[bool, Expected("true or false", " true 或 false")]

Body = TypeVar("Body", bound="Request")


class Request(BaseModel):
    """A body. `null` means the same as leaving the field out, as in OpenAI's API."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, raw: Any, handler: ModelWrapValidatorHandler[Body]) -> Body:
        if isinstance(raw, bytes):  # FastAPI did not read it as JSON, for it was not declared to be
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            return handler(_without_nulls(raw))
        except ValidationError as error:
            raise _refusal(cls, error.errors(include_context=False, include_url=False)[0]) from None


def _without_nulls(raw: Any) -> Any:
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, Mapping) else raw


_OBJECT = Expected("a JSON object", " JSON 对象")


def _refusal(body: type[Request], detail: Mapping[str, Any]) -> WebUIError:
    place = detail["loc"]
    if not place:
        return OptionError("body", _shown(detail["input"]), _OBJECT.words)
    name = str(place[0])
    if detail["type"] == "extra_forbidden" and len(place) == 1:
        return UnknownOption(name, nearest(name, body.model_fields))
    value = None if detail["type"] == "missing" else _shown(detail["input"])
    return OptionError(_path(place), value, _expected(body, place).words)


def _path(place: tuple[int | str, ...]) -> str:
    """ "messages[0].content" for ("messages", 0, "content", …); a union's branches are not shown."""
    if len(place) < 2 or isinstance(place[1], str):
        return str(place[0])
    inner = f".{place[2]}" if len(place) > 2 else ""
    return f"{place[0]}[{place[1]}]{inner}"


def _expected(body: type[Request], place: tuple[int | str, ...]) -> Expected:
    inside = place[0] == "messages" and len(place) > 2 and place[2] in Message.model_fields
    field = Message.model_fields[str(place[2])] if inside else body.model_fields[str(place[0])]
    return next(each for each in field.metadata if isinstance(each, Expected))


def _shown(value: object) -> object:
    """`value`, or the beginning of it if it is long."""
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= SHOWN):
        return value
    text = str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


# -- generation ------------------------------------------------------------------------------------------------------


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; there is none, whatever is asked


_STREAM_OPTIONS = Expected('an object such as {"include_usage": true}', '形如 {"include_usage": true} 的对象')
_STOP = Expected("a text or a list of texts, none of them empty", "非空文本或由非空文本组成的列表")
_COUNT = Expected("a whole number from 1 to 16", " 1 到 16 之间的整数")
_CANDIDATES = Expected("a whole number from 0 to 20", " 0 到 20 之间的整数")
_NAME = Expected("a name", "名称")
_BIAS = Expected('an object such as {"50256": -100}', '形如 {"50256": -100} 的对象')


class Generation(Request):
    """What completions and chat completions have in common."""

    model: Annotated[str, _NAME] = ""
    stream: Flag = False
    stream_options: Annotated[StreamOptions, _STREAM_OPTIONS] = StreamOptions()
    n: Annotated[int, Field(ge=1, le=16), _COUNT] = 1
    stop: Annotated[Text | list[Text], _STOP] = []
    logit_bias: Annotated[dict[str, float], _BIAS] = Field(default_factory=dict)

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def candidates(self) -> int | None:
        """How many candidates to give log-probabilities of, besides the chosen token; None for no log-probabilities."""
        raise NotImplementedError


class CompletionRequest(Generation):
    prompt: Annotated[
        Text | list[Text] | Tokens | list[Tokens],
        Field(union_mode="left_to_right"),
        Expected("a text, a list of texts or a list of token numbers", "文本、文本列表或词符编号列表"),
    ]
    logprobs: Annotated[int | None, Field(ge=0, le=20), _CANDIDATES] = None
    echo: Flag = False

    @property
    def candidates(self) -> int | None:
        return self.logprobs


class Part(BaseModel):
    """One part of a message. Other types than "text" are refused by name, in `conversation.py`."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: Text = ""


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Expected("system, developer, user, assistant or tool", " system、developer、user、assistant 或 tool"),
    ]
    content: Annotated[Text | list[Part], Expected("a text or a list of parts", "文本或内容片段列表")] = ""

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, raw: Any) -> Any:
        return _without_nulls(raw)


_MESSAGES = Expected(
    'a list of at least one message, such as {"role": "user", "content": "Hello"}',
    '至少含一条消息的列表，消息形如 {"role": "user", "content": "你好"}',
)


class ChatRequest(Generation):
    messages: Annotated[list[Message], Field(min_length=1), _MESSAGES]
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(ge=0, le=20), _CANDIDATES] = 0
    continue_: Flag = False

    @property
    def candidates(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise OptionError(
                "top_logprobs",
                self.top_logprobs,
                {"en": "logprobs to be true beside it", "zh": "与 logprobs: true 一起使用"},
            )
        return self.top_logprobs if self.logprobs else None


# -- the model -------------------------------------------------------------------------------------------------------


class ModelLoadRequest(Request):
    """As in the original: `args` holds "loader" and load options, `settings` generation parameters."""

    model_config = ConfigDict(extra="forbid")

    model_name: Annotated[Text, Expected("the name of a model", "模型名称")]
    args: Annotated[dict[str, Any], Expected('an object such as {"n_ctx": 4096}', '形如 {"n_ctx": 4096} 的对象')] = (
        Field(default_factory=dict)
    )
    settings: Annotated[
        dict[str, Any], Expected('an object such as {"temperature": 0.5}', '形如 {"temperature": 0.5} 的对象')
    ] = Field(default_factory=dict)


class TextRequest(Request):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[Text, Expected("a text", "文本")]


class TokensRequest(Request):
    model_config = ConfigDict(extra="forbid")

    tokens: Annotated[Tokens, Expected("a list of token numbers", "词符编号列表")]


_NAMES = Expected("a list of names of LoRAs", "LoRA 名称列表")
_WEIGHTS = Expected("a list of numbers, one for each LoRA", "数字列表，与 LoRA 一一对应")


class LorasRequest(Request):
    """As in the original, but for the weights, which may be left out: then each is 1."""

    model_config = ConfigDict(extra="forbid")

    lora_names: Annotated[list[Text], _NAMES]
    lora_weights: Annotated[list[float] | None, _WEIGHTS] = None

    @model_validator(mode="after")
    def _as_many(self) -> LorasRequest:
        weights = self.lora_weights
        if weights is not None and len(weights) != len(self.lora_names):
            raise OptionError("lora_weights", str(weights), _WEIGHTS.words)
        return self


# -- downloads -------------------------------------------------------------------------------------------------------

_FILES = Expected("a list of file names", "文件名列表")
_ID = Expected("the id of a download", "下载任务的编号")


class DownloadRequest(Request):
    """`repo` is user/model, user/model:branch or a link to it; the files that the page would tick, unless some are
    named."""

    model_config = ConfigDict(extra="forbid")

    repo: Annotated[Text, Expected("user/model or a link", "用户名/模型名或链接")]
    revision: Annotated[Text, Expected("a branch or commit", "分支或版本")] = ""
    files: Annotated[list[Text], _FILES] = []
    kind: Annotated[Literal["model", "lora"] | None, Expected("model or lora", " model 或 lora")] = None

    @model_validator(mode="before")
    @classmethod
    def _url(cls, raw: Any) -> Any:
        """A link may also be called "url"."""
        if isinstance(raw, Mapping) and "url" in raw and "repo" not in raw:
            return {"repo" if key == "url" else key: value for key, value in raw.items()}
        return raw


class JobRequest(Request):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[Text, _ID]


class ResumeRequest(JobRequest):
    """`keep_commit` is what to do if the branch has moved: go on with the old commit, or begin anew with the new."""

    keep_commit: Annotated[bool | None, Expected("true or false", " true 或 false")] = None
