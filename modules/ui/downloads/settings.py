"""A fold of the download panel: which hubs are asked, and which of them may see the user's access token."""

from __future__ import annotations

from modules.app import App
from modules.hub.endpoints import HUGGING_FACE, Token, host
from modules.hub.errors import BadEndpoint
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, Updates, as_error
from modules.ui.locales import Tr
from modules.ui.widgets import html

gr = gradio()


class DownloadSettings:
    """Made inside the panel. The token goes from the page to memory, never back and never to a disk."""

    def __init__(self, app: App, language: str, tr: Tr) -> None:
        self._app, self._language, self._tr = app, language, tr
        owner = not app.flags.on("multi_user")
        with gr.Accordion(tr("dl_settings"), open=False, elem_id="tx-dl-settings"):
            with gr.Column(elem_classes="tx-grid"):
                self.endpoint = gr.Textbox(
                    interactive=owner,
                    label=tr("dl_endpoint"),
                    info=tr("dl_endpoint_info"),
                    placeholder="https://hf-mirror.com",
                    max_lines=1,
                    elem_id="tx-dl-endpoint",
                )
                self.sha256 = gr.Textbox(
                    interactive=owner,
                    label=tr("dl_sha256"),
                    info=tr("dl_sha256_info"),
                    max_lines=1,
                    elem_id="tx-dl-sha256",
                )
                self.token = gr.Textbox(
                    interactive=owner,
                    label=tr("dl_token"),
                    info=tr("dl_token_info"),
                    type="password",
                    max_lines=1,
                    elem_id="tx-dl-token",
                )
                self.hosts = gr.CheckboxGroup(
                    choices=[], interactive=owner, label=tr("dl_hosts"), elem_id="tx-dl-hosts"
                )
            with gr.Row(elem_classes="tx-small"):
                self.use = gr.Button(tr("dl_token_use"), interactive=owner, size="sm", elem_id="tx-dl-token-use")
                self.forget = gr.Button(tr("dl_token_forget"), interactive=owner, size="sm", elem_id="tx-dl-forget")
            self.told = gr.HTML("", elem_id="tx-dl-settings-told")
        self.known = gr.JSON({}, visible=False)  # the endpoint that this page was shown
        self.shown = [self.endpoint, self.token, self.hosts, self.told, self.known]
        self.endpoint.submit(self.set_endpoint, self.endpoint, self.shown, queue=False, **PRIVATE)
        left = [self.endpoint, self.known]
        self.endpoint.blur(self.leave_endpoint, left, self.shown, queue=False, **PRIVATE)
        for event in (self.use.click, self.token.submit):
            event(self.set_token, [self.token, self.hosts], self.shown, queue=False, **PRIVATE)
        self.forget.click(self.forget_token, None, self.shown, queue=False, **PRIVATE)
        self.hosts.input(self.set_hosts, self.hosts, self.shown, queue=False, **PRIVATE)

    def show(self) -> Updates:
        """What is set now. Of the token, only where it goes."""
        if self._app.flags.on("multi_user"):
            return {self.told: gr.skip()}
        try:
            endpoint = ", ".join(self._app.hubs.endpoints)
            return {self.endpoint: endpoint, self.known: {"endpoint": endpoint}, **self._about_token()}
        except Exception as error:  # a wrong HF_ENDPOINT, or setting
            return {self.told: self._alert(error)}

    def leave_endpoint(self, text: object, known: object) -> Updates:
        """What was typed counts when the field is left, too; what was only looked at does not, for meanwhile another
        page may have set another one, or the setting be damaged and the field therefore empty."""
        shown = known.get("endpoint", "") if isinstance(known, dict) else ""
        if not isinstance(text, str) or text.strip() == shown:
            return {self.told: gr.skip()}
        return self.set_endpoint(text)

    def set_endpoint(self, text: object) -> Updates:
        try:
            self._app.refuse_guests()
            wish = text.strip() if isinstance(text, str) else ""
            if wish == self._current():
                return {self.told: gr.skip()}
            self._app.hubs.choose(wish)
            aside = self._app.settings.set("hf_endpoint", wish)
            said = self._tr("dl_endpoint_saved").format(hosts=", ".join(self._app.hubs.endpoints))
            said += self._tr("kept_aside").format(file=aside.name) if aside else ""
            self._restrict(self._allowed(self._ticked()))
            return self.show() | {self.told: html.info(said)}
        except Exception as error:
            return {self.told: self._alert(error)}

    def _current(self) -> str | None:
        """The endpoints in use; None if those of the environment or the settings are none."""
        try:
            return ", ".join(self._app.hubs.endpoints)
        except BadEndpoint:
            return None

    def set_token(self, secret: object, hosts: object) -> Updates:
        """The field is emptied once the token is in memory."""
        try:
            self._app.refuse_guests()
            secret = secret.strip() if isinstance(secret, str) else ""
            if secret:
                self._app.hubs.allow(Token(secret, self._allowed(hosts)))
            return {self.token: "", **self._about_token()}
        except Exception as error:
            return {self.told: self._alert(error)}

    def set_hosts(self, hosts: object) -> Updates:
        try:
            self._app.refuse_guests()
            self._restrict(self._allowed(hosts))
            return {self.told: self._said()}
        except Exception as error:
            return {self.told: self._alert(error)}

    def forget_token(self) -> Updates:
        try:
            self._app.refuse_guests()
            self._app.hubs.allow(None)
            return {self.token: "", **self._about_token()}
        except Exception as error:
            return {self.told: self._alert(error)}

    def _known(self) -> list[str]:
        """The hosts that a token may be sent to."""
        return list(dict.fromkeys([host(HUGGING_FACE), *map(host, self._app.hubs.endpoints)]))

    def _allowed(self, hosts: object) -> frozenset[str]:
        wished = hosts if isinstance(hosts, (list, tuple, frozenset)) else ()
        return frozenset(each for each in self._known() if each in wished)

    def _ticked(self) -> frozenset[str]:
        token = self._app.hubs.token
        return token.hosts if token else frozenset({host(HUGGING_FACE)})

    def _restrict(self, hosts: frozenset[str]) -> None:
        token = self._app.hubs.token
        if token:
            self._app.hubs.allow(Token(token.secret, hosts))

    def _about_token(self) -> Updates:
        ticked = self._ticked()
        known = self._known()
        return {
            self.hosts: gr.update(choices=known, value=[each for each in known if each in ticked]),
            self.told: self._said(),
        }

    def _said(self) -> str:
        token = self._app.hubs.token
        if token is None:
            return html.info(self._tr("dl_token_none"))
        if not token.hosts:
            return html.info(self._tr("dl_token_nowhere"))
        return html.info(self._tr("dl_token_set").format(hosts=", ".join(sorted(token.hosts))))

    def _alert(self, error: BaseException) -> str:
        return html.alert(as_error(error), self._language, self._tr)
