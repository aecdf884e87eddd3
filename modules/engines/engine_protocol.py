"""The interface between the worker and an engine, which holds one loaded model.

A `BatchingEngine` runs all its generations together, step by step. A `SerialEngine` has one generator per generation,
and the worker runs them one after the other. A `TextEngine` has them run elsewhere, by a server that tokenizes them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from modules.core.events import Done, Event, Info, Json, Progress, ServerState, Text
from modules.core.prompt import Image, Prompt

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Report = Callable[[Progress], None]
Operations = Mapping[str, Callable[..., Json]]
"""Functions that the parent process may call, by name.

The worker runs `operations` between two steps. One that returns a generator runs in parts, each between two steps, and
its result is what the generator returns; a cancellation closes it. `questions` are quick and use nothing that a step
uses: another thread answers them at once, during a step. Every engine of the registry answers these:

* "encode" (text, add_special=True): the ids of the tokens of a text, with BOS unless `add_special` is false.
* "decode" (tokens): the text of these ids, special ones by name.
* "count" (text): the number of its tokens, BOS included.
* "pieces" (text, add_special=True): its tokens as [id, text, bytes in hexadecimal, special], where `special` marks
  control tokens. A token that ends inside a character has bytes, but "" as its text.

The engine of a model whose `Info.task` is "embed" or "rank" has the operation of that name (`embedding_engine`), and
refuses to generate.

An operation of loaders with the ability of its name:

* "loglikelihoods" (tokens, first, keep="", against=""): the natural-log probability of every token from number `first`
  (1 or more) on, given all tokens before it; what `loglikelihoods.Loglikelihoods` reads. It runs in parts, and reuses
  nothing of the KV cache, so that a repetition gives the same numbers. `keep` is a path to which the log-probabilities
  of all tokens of the vocabulary are written, without padding, and `against` one of such a file of another model, with
  which they are compared. Raises PromptTooLong for more tokens than the context holds, OptionError, ReferenceUnusable
  for a file of other tokens or another vocabulary, ReferenceNotStored, GenerationFailed.
"""


class BatchingEngine(Protocol):
    info: Info
    questions: Operations
    operations: Operations

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """Return the tokens of a prompt, after a BOS token if the model wants one. Called from any thread."""

    def prepare_grammars(self) -> None:
        """Read the vocabulary for grammars, unless that was done. It takes up to a second.

        Called from any thread before a generation with a grammar, so that `submit` does not wait for it.
        """

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        """Queue a generation that continues the tokens of `prompt`; its events come from `step`.

        `params` has a seed, and perhaps a limit of `repetition.max_cached_tokens`, or texts that are `visible`: special
        tokens in them appear in the answer. `next_turn` is a text that will follow the answer if there is another turn.
        If it has a `next_token.candidate_count`, the generation ends with the `next_token.result` for its first token.
        Raises a WebUIError if the engine cannot accept it.
        """

    def cancel(self, call: int) -> None:
        """Drop the generation of that call, if there still is one, without a further event."""

    def step(self) -> Iterator[tuple[int, Event]]:
        """Run one step of all generations, and yield its events with the calls they belong to."""

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do."""

    def interrupt(self, urgent: bool) -> None:
        """Ask a long step to end early, as a request has arrived; if it is `urgent`, any step.

        Called from another thread. It applies to later steps, too, until `resume` is called.
        """

    def resume(self) -> None:
        """Let steps run to their end again: the requests that interrupted are about to be served."""


class ImageReader(Protocol):
    """The further methods of an engine whose `info` says that it reads pictures."""

    def read_images(self, images: Sequence[Image], text: str) -> Any:
        """Return what will be "images" among the parameters of `tokenize` and `submit`. Called from any thread.

        Marks in the text of the prompt stand for these images; `text` is what the model's chat template writes for one,
        "" if that is not known. Raises a WebUIError for an image that cannot be read.
        """


class SerialEngine(Protocol):
    info: Info
    questions: Operations
    operations: Operations

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """Return the tokens of a prompt, after a BOS token if the model wants one. Called from any thread."""

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        """Continue the tokens of `prompt`, yielding text as it comes."""


class TextEngine(Protocol):
    """An engine whose prompts stay texts. It hands on text at a pace of its own, as much at once as there is."""

    info: Info
    questions: Operations
    operations: Operations
    notify: Callable[[ServerState], None]
    """Called from any thread when the server has become unreachable, or answers again. The worker sets it."""

    def submit_text(self, call: int, prompt: Prompt, params: Mapping[str, Json]) -> None:
        """Start a generation that continues `prompt`; its events come from `step`.

        Its `Done` has the facts about prompt and seed, as nobody has counted its tokens before. Raises a WebUIError if
        the engine cannot accept it.
        """

    def submit_question(self, call: int, operation: str, args: Mapping[str, Json]) -> None:
        """Answer one of the `questions`, or of the `operations` that may run beside generations, in another thread.

        Its end, a `Result` or `Failed`, comes from `step`. Raises Unsupported for an operation that it does not have.
        """

    def cancel(self, call: int) -> None:
        """Drop the generation or question of that call, if there still is one, without a further event."""

    def step(self) -> Iterator[tuple[int, Event]]:
        """Wait until there are events, or a request interrupts, and yield them with the calls they belong to."""

    @property
    def idle(self) -> bool:
        """Whether no call is under way."""

    def interrupt(self, urgent: bool) -> None:
        """Let `step` end at once, the next one too, until `resume` is called. Called from another thread."""

    def resume(self) -> None:
        """Let steps wait again: the requests that interrupted are about to be served."""


class PromptSaver(Protocol):
    """The further methods of an engine that saves prompts to files.

    Such an engine has the operation "keep_prompts" (folder, max_bytes), after which it uses the files in that folder
    and `keeps_prompts`. The folder is an absolute path.
    """

    @property
    def keeps_prompts(self) -> bool:
        """Whether there is a folder for prompts. Read by any thread."""

    def save_prompts(self, seconds: float, at_end: bool) -> Iterator[None]:
        """Save what has been evaluated and is in no file, in steps of some milliseconds.

        Closing the iterator gives up what is not complete; it must be closed before anything else is asked of the
        engine. `seconds` are left for all; `at_end` it is the last chance.
        """


def saves_prompts(engine: object) -> TypeIs[PromptSaver]:
    """Tell whether an engine saves prompts to files now."""
    return getattr(engine, "keeps_prompts", False)


def takes_text(engine: object) -> TypeIs[TextEngine]:
    """Tell whether an engine is a `TextEngine`."""
    return hasattr(engine, "submit_text")
