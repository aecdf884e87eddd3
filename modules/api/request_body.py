"""Base of all request bodies: strict types, and validation errors as OptionErrors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from starlette.exceptions import HTTPException

from modules.api.limits import check_request
from modules.core.errors import OptionError, UnknownOption, WebUIError, Words
from modules.options.option import nearest

MAX_QUOTED = 80
"""Longest part of a refused value that the answer quotes, in characters."""


@dataclass(frozen=True)
class Expected:
    """Describe what a field must be, as the end of a sentence. Part of the field's annotation."""

    en: str
    zh: str

    @property
    def words(self) -> Words:
        return {"en": self.en, "zh": self.zh}


def _check_encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can spell, but no tokenizer can read."""
    text.encode()  # UnicodeEncodeError is a ValueError, which pydantic expects
    return text


Text = Annotated[str, AfterValidator(_check_encodable)]
# The first wrong item of a list is reported. Collecting all of them takes minutes and gigabytes for a long list.
Texts = Annotated[list[Text], Field(fail_fast=True)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
TextOrTokens = Text | Texts | Tokens | Annotated[list[Tokens], Field(fail_fast=True)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
Flag = Annotated[bool, Expected("true or false", " true 或 false")]

Body = TypeVar("Body", bound="RequestBody")


class RequestBody(BaseModel):
    """The body of a request. `null` means the same as leaving the field out, as in OpenAI's API."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    _spelled: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, raw: Any, handler: ModelWrapValidatorHandler[Body]) -> Body:
        if isinstance(raw, bytes):  # FastAPI leaves a body undecoded whose content type is not JSON
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if isinstance(raw, Mapping):
            check_request(raw)
        fields, spelled = cls.canonical(raw) if isinstance(raw, Mapping) else (raw, {})
        try:
            body = handler(fields)
        except ValidationError as error:
            refused = _option_error(cls, error.errors(include_context=False, include_url=False)[0])
            raise respelled(refused, spelled) from None
        body._spelled = spelled
        return body

    @classmethod
    def canonical(cls, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the fields under their own names, and the aliases that were sent, by the name of the field."""
        return without_nulls(raw), {}

    @property
    def spelled(self) -> Mapping[str, str]:
        """The aliases that were sent, by the name of the field."""
        return self._spelled

    def spell(self, names: Mapping[str, str]) -> None:
        """Let errors name fields as another API does, by the name of the field."""
        self._spelled.update(names)

    @classmethod
    def expected(cls, location: tuple[int | str, ...]) -> Expected:
        """Return what the field at `location` must be."""
        return expected_in(cls, str(location[0]))


def respelled(error: WebUIError, spelled: Mapping[str, str]) -> WebUIError:
    """Let an OptionError name the field as the client spelled it."""
    if isinstance(error, OptionError):
        error.option = spelled.get(error.option, error.option)
    return error


def without_nulls(raw: Any) -> Any:
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, Mapping) else raw


def expected_in(schema: type[BaseModel], field: str) -> Expected:
    """Return the Expected in the annotation of `field`."""
    return next(item for item in schema.model_fields[field].metadata if isinstance(item, Expected))


_OBJECT = Expected("a JSON object", " JSON 对象")


def _option_error(schema: type[RequestBody], detail: Mapping[str, Any]) -> WebUIError:
    location = detail["loc"]
    if not location:
        return OptionError("body", _shortened(detail["input"]), _OBJECT.words)
    name = str(location[0])
    if detail["type"] == "extra_forbidden" and len(location) == 1:
        return UnknownOption(name, nearest(name, schema.model_fields))
    value = None if detail["type"] == "missing" else _shortened(detail["input"])
    return OptionError(_path(location), value, schema.expected(location).words)


def _path(location: tuple[int | str, ...]) -> str:
    """Return "messages[0].content" for ("messages", 0, "content", …); branches of a union are left out."""
    if len(location) < 2 or isinstance(location[1], str):
        return str(location[0])
    inner = f".{location[2]}" if len(location) > 2 and str(location[2]).isidentifier() else ""
    return f"{location[0]}[{location[1]}]{inner}"


def _shortened(value: object) -> object:
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= MAX_QUOTED):
        return value
    text = str(value)
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
