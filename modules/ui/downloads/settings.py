"""The download settings: which mirrors are used, and to which of them the user's access token is sent."""

from __future__ import annotations

from typing import Any

from modules.hub.access_token import AccessToken
from modules.hub.endpoint_url import HUGGING_FACE, host_of
from modules.hub.errors import BadEndpoint
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()

OPEN_SETTINGS = """element.addEventListener("click", (event) => {
  if (!event.target.closest("[data-open-site]")) return;
  const fold = document.querySelector("#tx-dl-settings > button");
  if (!document.querySelector("#tx-dl-endpoint input")?.offsetParent) fold?.click();
  const focus = (tries) => {
    const field = document.querySelector("#tx-dl-endpoint input");
    if (field?.offsetParent) field.focus();
    else if (tries) setTimeout(() => focus(tries - 1), 50);
  };
  focus(40); // Gradio draws the content of a fold when it is first opened
});"""
"""Script of components with a button that leads to the choice of the download site."""


class DownloadSettings:
    """A fold of the download panel. The token goes from the page to memory, never back and never to disk."""

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        tr, owner = page.tr, page.owner
        with gr.Accordion(tr("dl_settings"), open=False, elem_id="tx-dl-settings"):
            with gr.Column(elem_classes="tx-grid"):
                self.endpoint = self._text_box("endpoint", placeholder="https://hf-mirror.com")
                self.sha256 = self._text_box("sha256")
                self.token = self._text_box("token", type="password")
                self.hosts: Component = gr.CheckboxGroup(
                    choices=[], interactive=owner, label=tr("dl_hosts"), elem_id="tx-dl-hosts"
                )
            with gr.Row(elem_classes="tx-small"):
                self.use: Component = gr.Button(
                    tr("dl_token_use"), interactive=owner, size="sm", elem_id="tx-dl-token-use"
                )
                self.forget: Component = gr.Button(
                    tr("dl_token_forget"), interactive=owner, size="sm", elem_id="tx-dl-forget"
                )
            self.line: Component = gr.HTML("", elem_id="tx-dl-settings-line")
        self.shown_endpoint: Component = gr.JSON({}, visible=False)
        self.writes = [self.endpoint, self.token, self.hosts, self.line, self.shown_endpoint]
        self._listen()

    def _text_box(self, name: str, **options: Any) -> Component:
        return gr.Textbox(
            interactive=self._page.owner,
            label=self._page.tr(f"dl_{name}"),
            info=self._page.tr(f"dl_{name}_info"),
            max_lines=1,
            elem_id=f"tx-dl-{name}",
            **options,
        )

    def _listen(self) -> None:
        on, writes = self._page.on, self.writes
        owners: Options = {"alert": self.line, "owner_only": True, "queue": False}
        on(self.endpoint.submit, self.set_endpoint, [self.endpoint], writes, **owners)
        on(
            self.endpoint.blur,
            self.leave_endpoint,
            [self.endpoint, self.shown_endpoint],
            writes,
            alert=self.line,
            queue=False,
        )
        for event in (self.use.click, self.token.submit):
            on(event, self.set_token, [self.token, self.hosts], writes, **owners)
        on(self.forget.click, self.forget_token, None, writes, **owners)
        on(self.hosts.input, self.set_hosts, [self.hosts], writes, **owners)

    def on_page_load(self, load: Any) -> None:
        """Show the settings when the page is opened, by the event `load`."""
        self._page.on(load, self.show, None, self.writes, alert=self.line, queue=False)

    # -- handlers ---------------------------------------------------------------------------------------------------

    def show(self) -> Updates:
        """Show the settings in force; of the token, only where it is sent."""
        if not self._page.owner:
            return {self.line: gr.skip()}
        endpoint = ", ".join(self._app.mirrors.endpoints)  # raises if HF_ENDPOINT or the setting is invalid
        return {self.endpoint: endpoint, self.shown_endpoint: {"endpoint": endpoint}, **self._token_updates()}

    def leave_endpoint(self, text: object, shown: object) -> Updates:
        """Set the endpoints when the field loses focus, if they were edited.

        An unedited field is ignored: another page may have changed the setting meanwhile, or the setting is invalid and
        the field therefore empty.
        """
        before = shown.get("endpoint", "") if isinstance(shown, dict) else ""
        if not isinstance(text, str) or text.strip() == before:
            return {self.line: gr.skip()}
        self._app.refuse_guests()
        return self.set_endpoint(text)

    def set_endpoint(self, text: object) -> Updates:
        """Use these endpoints from now on."""
        endpoints = text.strip() if isinstance(text, str) else ""
        if endpoints == self._current():
            return {self.line: gr.skip()}
        self._app.mirrors.choose(endpoints)
        backup = self._app.settings.set("hf_endpoint", endpoints)
        line = self._page.tr("dl_endpoint_saved").format(hosts=", ".join(self._app.mirrors.endpoints))
        line += self._page.tr("backup").format(file=backup.name) if backup else ""
        self._restrict(self._allowed(self._allowed_by_token()))
        return self.show() | {self.line: messages.info(line)}

    def set_token(self, secret: object, hosts: object) -> Updates:
        """Keep the token in memory and empty its field."""
        text = secret.strip() if isinstance(secret, str) else ""
        if text:
            self._app.mirrors.set_token(AccessToken(text, self._allowed(hosts)))
        return {self.token: "", **self._token_updates()}

    def set_hosts(self, hosts: object) -> Updates:
        """Send the token to these hosts only."""
        self._restrict(self._allowed(hosts))
        return {self.line: self._token_line()}

    def forget_token(self) -> Updates:
        """Delete the token."""
        self._app.mirrors.set_token(None)
        return {self.token: "", **self._token_updates()}

    # -- state ------------------------------------------------------------------------------------------------------

    def _current(self) -> str | None:
        """Return the endpoints in use; None if the environment or the settings name invalid ones."""
        try:
            return ", ".join(self._app.mirrors.endpoints)
        except BadEndpoint:
            return None

    def _hosts(self) -> list[str]:
        """Return the hosts that a token may be sent to."""
        return list(dict.fromkeys([host_of(HUGGING_FACE), *map(host_of, self._app.mirrors.endpoints)]))

    def _allowed(self, hosts: object) -> frozenset[str]:
        sent = hosts if isinstance(hosts, (list, tuple, frozenset)) else ()
        return frozenset(name for name in self._hosts() if name in sent)

    def _allowed_by_token(self) -> frozenset[str]:
        token = self._app.mirrors.token
        return token.hosts if token else frozenset({host_of(HUGGING_FACE)})

    def _restrict(self, hosts: frozenset[str]) -> None:
        token = self._app.mirrors.token
        if token:
            self._app.mirrors.set_token(AccessToken(token.secret, hosts))

    def _token_updates(self) -> Updates:
        allowed, hosts = self._allowed_by_token(), self._hosts()
        value = [name for name in hosts if name in allowed]
        return {self.hosts: gr.update(choices=hosts, value=value), self.line: self._token_line()}

    def _token_line(self) -> str:
        token = self._app.mirrors.token
        if token is None:
            return self._page.info("dl_token_none")
        if not token.hosts:
            return self._page.info("dl_token_nowhere")
        return self._page.info("dl_token_set", hosts=", ".join(sorted(token.hosts)))
