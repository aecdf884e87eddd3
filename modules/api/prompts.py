"""From the messages and prompts of OpenAI's API to what a model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.api.schemas import ChatRequest, CompletionRequest, Message, Part
from modules.chat.prompt import conversation_prompt, text_prompt
from modules.core.errors import OptionError, UnknownOption, Unsupported
from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.options.option import nearest
from modules.runtime.loaded_model import LoadedModel

_PASSED_ON = ("name", "tool_call_id")  # templates may show them
_UNABLE = ("tool_calls", "function_call", "audio", "refusal", "annotations")


def chat_prompt(model: LoadedModel, request: ChatRequest, params: Mapping[str, Json]) -> Prompt:
    """Return the prompt of a chat completion. Raises Unsupported or OptionError.

    A prompt is refused only if it cannot be evaluated at all; an answer that meets the end of the context says so
    by its finish_reason, "length". Therefore the room asked for is that of a single token.
    """
    if request.continue_ and request.messages[-1].role != "assistant":
        wish = {"en": "a message of the assistant as the last one", "zh": "以 assistant 的消息结尾"}
        raise OptionError("continue_", True, wish)
    messages = [_message(place, message) for place, message in enumerate(request.messages)]
    # Who sets a length to truncate to wants the oldest messages dropped.
    drop = bool(params["truncation_length"])
    wishes = {**params, "max_new_tokens": 1}
    return conversation_prompt(model, messages, wishes, continue_last=request.continue_, drop_oldest=drop)


def _message(place: int, message: Message) -> dict[str, str]:
    extra = {name: value for name, value in (message.model_extra or {}).items() if value not in ([], {}, "")}
    for name in extra:
        _check(f"messages[{place}]", name)
    role = "system" if message.role == "developer" else message.role
    passed = {name: str(value) for name, value in extra.items()}
    return {"role": role, "content": _content(place, message.content), **passed}


def _check(where: str, name: str) -> None:
    if name in _UNABLE:
        raise Unsupported({"en": f"{where}.{name} is not supported here.", "zh": f"此处不支持 {where}.{name}。"})
    if name not in _PASSED_ON:
        raise UnknownOption(f"{where}.{name}", nearest(name, ("role", "content", *_PASSED_ON)))


def _content(place: int, content: str | list[Part]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(f"messages[{place}].content[{number}]", part) for number, part in enumerate(content))


def _text(where: str, part: Part) -> str:
    if part.type != "text":
        raise Unsupported(
            {
                "en": f"{where}: only parts of the type 'text' are supported here, not {part.type!r}.",
                "zh": f"{where}：此处仅支持 text 类型的内容，不支持 {part.type!r}。",
            }
        )
    return part.text


def plain_prompts(model: LoadedModel, request: CompletionRequest, params: Mapping[str, Json]) -> list[Prompt]:
    """Return the prompts of a completion. Token numbers become text, which asks the worker."""
    return [text_prompt(prompt, params) for prompt in _prompts(model, request)]


def echoed(model: LoadedModel, prompts: Sequence[Prompt]) -> list[str]:
    """Return the text of each prompt as the model gets it, for `echo`. Asks the worker about those with a limit."""
    return [_truncated(model, prompt) if prompt.limit else prompt.text for prompt in prompts]


def _truncated(model: LoadedModel, prompt: Prompt) -> str:
    tokens = model.ask("encode", text=prompt.text)
    if len(tokens) <= prompt.limit:
        return prompt.text
    return str(model.ask("decode", tokens=tokens[-prompt.limit :]))


def _prompts(model: LoadedModel, request: CompletionRequest) -> list[str]:
    if request.echo and request.logprobs is not None:
        raise Unsupported(
            {
                "en": "echo together with logprobs is not supported: there are none for the prompt.",
                "zh": "不支持同时使用 echo 和 logprobs：提示词没有对数概率。",
            }
        )
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise OptionError("prompt", "[]", {"en": "at least one prompt", "zh": "至少一个提示词"})
    if isinstance(prompt[0], int):
        return [_decoded(model, prompt)]
    return [each if isinstance(each, str) else _decoded(model, each) for each in prompt]


def _decoded(model: LoadedModel, tokens: object) -> str:
    return str(model.ask("decode", tokens=tokens))
