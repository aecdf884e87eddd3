"""Write answers into conversations: one run for each conversation, which goes on when its page is closed."""

from __future__ import annotations

import threading
import time

from modules.chat.errors import ConversationBusy
from modules.chat.modes import ConversationPrompts
from modules.chat.run import IMPERSONATE, Draft, ReplyRequest, Run, RunState, place_answer
from modules.conversations.conversation import Conversation
from modules.conversations.store import ConversationStore
from modules.core.recent import Recent
from modules.runtime.model_source import ModelSource
from modules.runtime.run_table import RunTable

REMEMBERED_RUNS = 100
"""Failed runs, and drafts, that are remembered for pages."""


class Runs(RunTable[ConversationStore, Run]):
    """Starts and stops the runs of all conversations, and knows what they have written. Any thread may call."""

    def __init__(self, prompts: ConversationPrompts) -> None:
        super().__init__()
        self._prompts = prompts
        self._errors: Recent[tuple[ConversationStore, str], RunState] = Recent(REMEMBERED_RUNS)
        self._drafts: Recent[tuple[ConversationStore, str], RunState] = Recent(REMEMBERED_RUNS)  # that have ended

    def start(
        self,
        store: ConversationStore,
        id: str,
        request: ReplyRequest,
        model: ModelSource,
        new: Conversation | None = None,
    ) -> RunState:
        """Add the messages that `request` asks for, and begin to write the answer.

        With "" as `id`, the conversation `new` is stored first, by default one in the mode instruct. Raises
        ConversationBusy, NothingToAnswer, and what `ConversationStore.change` raises; nothing has changed then.
        """
        if not id:
            conversation = new or Conversation("", created=time.time(), updated=time.time())
            answer = place_answer(conversation, request)
            run = Run(store, store.add(conversation), answer, request, model, self._prompts, self._notify)
            return self._begin(run)
        with self._lock:
            self._check_idle(store, id)
            self._starting.add((store, id))
        try:
            return self._begin(self._run(store, id, request, model))
        finally:
            with self._lock:
                self._starting.discard((store, id))
            self._notify(store, id)

    def _run(self, store: ConversationStore, id: str, request: ReplyRequest, model: ModelSource) -> Run:
        if request.action == IMPERSONATE:
            return Draft(store, store.read(id), request, model, self._prompts, self._notify)
        conversation, answer = store.change(id, request.seen, lambda tree: (tree, place_answer(tree, request)))
        return Run(store, conversation, answer, request, model, self._prompts, self._notify)

    def _begin(self, run: Run) -> RunState:
        with self._lock:
            self._runs[run.key] = run
            self._errors.pop(run.key, None)
            self._drafts.pop(run.key, None)
        threading.Thread(target=self._work, args=(run,), name="chat run", daemon=True).start()
        self._notify(*run.key, begun_or_ended=True)
        return run.state

    def _work(self, run: Run) -> None:
        try:
            run.write()
        finally:
            with self._lock:
                del self._runs[run.key]
                if isinstance(run, Draft):
                    self._drafts[run.key] = run.state
                elif run.state.error is not None:
                    self._errors[run.key] = run.state
            self._notify(*run.key, begun_or_ended=True)

    def state(self, store: ConversationStore, id: str) -> RunState | None:
        """Return what the run of a conversation has written, None if there is none. Drafts are told by `draft`."""
        with self._lock:
            run = self._runs.get((store, id))
        return run.state if run is not None and not isinstance(run, Draft) else None

    def draft(self, store: ConversationStore, id: str) -> RunState | None:
        """Return the draft of the user's next message that is being written, or that has ended last.

        None if there is none, or if another run has begun since.
        """
        with self._lock:
            run = self._runs.get((store, id))
            return run.state if isinstance(run, Draft) else self._drafts.get((store, id))

    def is_starting(self, store: ConversationStore, id: str) -> bool:
        """Whether the messages of a run are being added, which is not to be shown before the run itself."""
        with self._lock:
            return (store, id) in self._starting

    def failure(self, store: ConversationStore, id: str) -> RunState | None:
        """Return the last run of a conversation if it failed, None after many failures of others."""
        with self._lock:
            return self._errors.get((store, id))

    def running(self, store: ConversationStore) -> set[str]:
        """Return the ids of the conversations in which an answer is being written."""
        with self._lock:
            return {id for of, id in self._runs if of is store}

    def refuse_while_running(self, store: ConversationStore, id: str) -> None:
        """Raise ConversationBusy if an answer is being written in the conversation."""
        with self._lock:
            self._check_idle(store, id)

    def _check_idle(self, store: ConversationStore, id: str) -> None:
        if self._is_busy(store, id):
            raise ConversationBusy()
