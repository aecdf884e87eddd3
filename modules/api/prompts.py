"""Turn messages and prompts of OpenAI's API into prompts for the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from modules.api.images import read_image
from modules.api.messages import Message, Part
from modules.api.request_body import respelled
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.chat.gap_prompt import gap_prompt
from modules.chat.images import image_part, mark_images
from modules.chat.prompt import ChatPrompt, PromptForm, text_prompt
from modules.chat.prompt import chat_prompt as prompt_of_chat
from modules.chat.templates import ChatTemplates
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.core.fill_in_middle import FimTokens
from modules.core.prompt import Prompt
from modules.core.quotes import in_quotes
from modules.runtime.loaded_model import LoadedModel

FEW_MESSAGES, SHORT_TEXT = 32, 16_000
"""Messages, and characters of all their contents, that are prepared in less than a millisecond."""


def tool_use(templates: ChatTemplates, model: LoadedModel, request: ChatRequest) -> ToolUse | None:
    """Return how the model gets the tools of a request, and the calls in its messages; None if there are neither."""
    if not request.functions and not any(message.tool_calls or message.role == "tool" for message in request.messages):
        return None
    tools = [
        Tool(one.name, one.description, one.parameters, one.strict, {"type": "function", "function": one.source})
        for one in request.functions
    ]
    return ToolUse.of(templates, templates.of(model.record, model.info), tools)


def chat_prompt(
    templates: ChatTemplates,
    model: LoadedModel,
    request: ChatRequest,
    params: Mapping[str, Json],
    use: ToolUse | None,
    form: PromptForm | None = None,
) -> ChatPrompt:
    """Return the prompt of a chat completion. Raises Unsupported, OptionError, or what `ChatTemplates.render` raises.

    A prompt is refused only if it cannot be evaluated at all; an answer that meets the end of the context says so by
    its finish_reason, "length". Therefore the room asked for is that of a single token. `form` is by default that of
    the template that is used for the model.
    """
    if request.continue_ and request.messages[-1].role != "assistant":
        expected = {"en": "a message of the assistant as the last one", "zh": "以 assistant 的消息结尾"}
        raise OptionError("continue_", True, expected)
    files: dict[str, bytes] = {}
    sent: Sequence[dict[str, Any]] = [_message(index, one, files) for index, one in enumerate(request.messages)]
    marked, images = mark_images(sent, files)
    messages = use.messages(marked) if use else marked
    # A request that sets a truncation length wants the oldest messages dropped.
    drop = bool(params["truncation_length"])
    one_token = {**params, "max_new_tokens": 1}
    tools = use.template_kwargs if use and use.tools else {}
    chat = prompt_of_chat(
        templates,
        model,
        messages,
        one_token,
        continue_last=request.continue_,
        drop_oldest=drop,
        hysteresis=False,
        template_kwargs={**request.template_kwargs, **tools},
        form=form,
        images=images,
    )
    if not use or not use.tools:
        return chat
    prompt = chat.prompt
    shown = dataclasses.replace(prompt, stop=(*prompt.stop, *use.stop), visible=(*prompt.visible, *use.visible))
    return dataclasses.replace(chat, prompt=shown)


def plain_messages(request: ChatRequest) -> list[dict[str, Any]] | None:
    """Return the messages that `chat_prompt` has rendered for a short conversation of nothing but texts.

    None for another one, which may take longer to prepare.
    """
    if request.tools or request.continue_ or request.template_kwargs or len(request.messages) > FEW_MESSAGES:
        return None
    messages, size = [], 0
    for index, message in enumerate(request.messages):
        if not isinstance(message.content, str) or message.tool_calls or message.role == "tool":
            return None
        size += len(message.content)
        messages.append(_message(index, message, {}))
    return messages if size <= SHORT_TEXT else None


def _message(index: int, message: Message, files: dict[str, bytes]) -> dict[str, Any]:
    """Return the message as `chat.images` takes it, and add its pictures to `files`, by their ids."""
    return {"role": message.role, "content": _content(index, message.content, files), **message.template_fields}


def _content(index: int, content: str | list[Part], files: dict[str, bytes]) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    parts = [_part(f"messages[{index}].content[{number}]", part, files) for number, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(where: str, part: Part, files: dict[str, bytes]) -> dict[str, str]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image_url":
        facts, data = read_image(where, (part.model_extra or {}).get("image_url"))
        files[facts.id] = data
        return image_part(facts.id)
    raise Unsupported(
        {
            "en": f"{where}: only parts of type 'text' and 'image_url' are supported, not {part.type!r}.",
            "zh": f"{where}：仅支持 text 和 image_url 类型的内容，不支持{in_quotes(part.type)}。",
        }
    )


def is_text(request: CompletionRequest) -> bool:
    """Whether `plain_prompts` asks the worker nothing: a text is continued, not token numbers or a gap in a text."""
    return isinstance(request.prompt, str) and not request.suffix


def plain_prompts(model: LoadedModel, request: CompletionRequest, params: Mapping[str, Json]) -> list[Prompt]:
    """Return the prompts of a completion. Token numbers become text, which asks the worker.

    Raises Unsupported for a suffix if the model cannot fill the gap before it.
    """
    prompts = _prompts(model, request)
    if not request.suffix:
        return [text_prompt(prompt, params) for prompt in prompts]
    fim = fim_tokens(model, "suffix")
    return [gap_prompt(model, fim, prompt, request.suffix, params) for prompt in prompts]


def fim_tokens(model: LoadedModel, field: str) -> FimTokens:
    """Return the tokens around a gap. Raises Unsupported, which names `field`, if the model has none."""
    if model.info.fim is None:
        raise Unsupported(
            {
                "en": f"{field} is not supported: {model.record.name} was not trained to fill in the middle of a text.",
                "zh": f"不支持 {field}：{model.record.name} 未经填充文本中间部分的训练。",
            }
        )
    return model.info.fim


def echoed_prompts(model: LoadedModel, prompts: Sequence[Prompt]) -> list[str]:
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
    if request.echo and request.suffix:
        raise Unsupported(
            {
                "en": "echo together with suffix is not supported.",
                "zh": "不支持同时使用 echo 和 suffix。",
            }
        )
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise OptionError("prompt", "[]", {"en": "at least one prompt", "zh": "至少一个提示词"})
    if isinstance(prompt[0], int):
        return [_decoded(model, prompt)]
    return [part if isinstance(part, str) else _decoded(model, part) for part in prompt]


def _decoded(model: LoadedModel, tokens: object) -> str:
    try:
        return str(model.ask("decode", tokens=tokens))
    except OptionError as error:  # of the engine, for which they are "tokens"
        raise respelled(error, {"tokens": "prompt"}) from None
