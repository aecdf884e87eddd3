"""Turn a chat completion into what the model gets, for all endpoints that chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request

from modules.api import parameters
from modules.api.answer_forms import Thought, answer_form
from modules.api.answers import AnswerFormat, Answers, begin
from modules.api.auth import KEY
from modules.api.generations import GenerationCall
from modules.api.model_use import use_model
from modules.api.prompts import chat_prompt, plain_messages, tool_use
from modules.api.schemas import ChatRequest
from modules.api.single_call import SingleCallParser
from modules.api.state import ApiState
from modules.chat.prompt import ChatPrompt, NotRendered, PromptForm, rendered_form
from modules.chat.templates import ChatTemplates
from modules.chat.tools.use import ToolUse
from modules.core.events import Json
from modules.core.pieces import ReplyParser
from modules.core.reasoning import ReasoningParser
from modules.runtime.loaded_model import GENERATE, LoadedModel


@dataclass(frozen=True)
class ChatCall:
    """A chat completion as its model gets it. `ignored` are the fields of the request that it does without.

    `use` is how it uses tools, None without any; `parallel` is whether an answer may have several calls.
    """

    model: LoadedModel
    prompt: ChatPrompt
    params: Mapping[str, Json]
    ignored: tuple[str, ...] = ()
    use: ToolUse | None = None
    parallel: bool = True

    async def count_tokens(self) -> int:
        """Return how many tokens the prompt has. Raises TextTooLong."""
        return await self.model.measure(self.prompt.prompt, self.params)

    def parsers(self, count: int, *, raw: bool = False) -> list[ReplyParser]:
        """Return a parser for each of `count` answers. With `raw` their thoughts are text."""
        return [self._parser(raw) for _ in range(count)]

    def _parser(self, raw: bool) -> ReplyParser:
        reasoning = ReasoningParser((), begun=True) if raw else self.prompt.parser()
        if self.use is None or not self.use.tools:
            return reasoning
        parser = self.use.parser(reasoning)
        return parser if self.parallel else SingleCallParser(parser)


async def prepare_chat(state: ApiState, model: LoadedModel, body: ChatRequest) -> ChatCall:
    """Return what `model` gets of a request. Raises what `parameters.resolve` and `prompts.chat_prompt` raise."""
    params, ignored = parameters.resolve(body, model, state.defaults_of(model), state.app.flags.on("strict_api"))
    templates = state.app.templates
    form = await _rendered_form(state, model, body)
    if form is not None:
        with suppress(NotRendered):
            return _prepare(templates, model, body, params, ignored, form)
    return await state.threads.run(_prepare, templates, model, body, params, ignored)


async def _rendered_form(state: ApiState, model: LoadedModel, body: ChatRequest) -> PromptForm | None:
    """Return the form of a short conversation, which has been rendered together with others that came with it.

    None for one that is to be prepared in a thread, as that may take a while.
    """
    messages = plain_messages(body)
    rendered = None if messages is None else await state.renderings.prompt(model, messages)
    if messages is None or rendered is None:
        return None
    return rendered_form(state.app.templates, rendered.template, messages, rendered.text)


def _prepare(
    templates: ChatTemplates,
    model: LoadedModel,
    body: ChatRequest,
    params: dict[str, Json],
    ignored: Sequence[str],
    rendered: PromptForm | None = None,
) -> ChatCall:
    use = tool_use(templates, model, body)
    prompt = chat_prompt(templates, model, body, params, use, rendered)
    form = answer_form(body, use, Thought.of(templates, prompt))
    params.pop("answer_grammar", None)
    if form.grammar is not None:
        parameters.require_grammar(body, model, params, form.field)
        params["answer_grammar"] = form.grammar
        params["grammar_field"] = body.spelled.get(form.field, form.field)
    return ChatCall(model, prompt, params, (*ignored, *form.ignored), use, body.parallel_tool_calls)


async def begin_chat(
    state: ApiState, request: Request, body: ChatRequest, builder: Callable[[ChatCall], AnswerFormat]
) -> Answers:
    """Start the `n` answers of a chat completion, written by the builder that `builder` returns.

    Raises what `use_model` and `prepare_chat` raise, and the refusal of the model.
    """
    use = await use_model(state.app, request, body.model, body.kept_seconds, GENERATE)
    with use.released_on_error():
        call = await prepare_chat(state, use.model, body)
        calls = [GenerationCall(call.prompt.prompt, parameters.seeded(call.params, index)) for index in range(body.n)]
        return await begin(use, calls, builder(call), request.scope.get(KEY), state.running)
