"""Versions and licenses of what is installed, and the text of a bug report."""

from __future__ import annotations

import asyncio
from functools import cache
from html import escape

from modules.setup.installed import Package, installed_packages, machine, report
from modules.ui.handlers import Options, Page, Updates
from modules.ui.session.card import button, card, fold, heading, tagged
from modules.ui.widgets.option_form import Component

_FACTS = ("program", "python", "system", "cpu", "cores", "memory", "gpus", "torch", "llama_cpp")


class VersionsCard:
    def __init__(self, page: Page) -> None:
        self._page, self._tr = page, page.tr
        self.part: Component = card("versions", "refresh")

    def listen(self) -> None:
        on = self._page.on
        on(self.part.refresh, self.refresh, None, [self.part], **Options(owner_only=True))

    async def show(self) -> Updates:
        """Show what was installed when it was first asked for."""
        return {self.part: await asyncio.to_thread(self._render)}

    async def refresh(self) -> Updates:
        """Look again at what is installed."""
        _known.cache_clear()
        return await self.show()

    def _render(self) -> str:
        tr = self._tr
        facts, packages = _known()
        rows = "".join(
            f"<dt>{escape(tr(f'ss_fact_{key}'))}</dt><dd>{escape(facts[key])}</dd>" for key in _FACTS if key in facts
        )
        lists = "".join(self._packages(name, found) for name, found in packages.items())
        copied = {"data_copy": "tx-s-report", "data_done": tr("ss_copied"), "id": "tx-s-copy-report"}
        buttons = button(tr("ss_copy_report"), "", **copied) + button(tr("ss_refresh"), "refresh")
        return (
            heading(tr("ss_versions"), tr("ss_versions_info"))
            + f'<dl class="tx-s-facts">{rows}</dl><pre id="tx-s-report" hidden>{escape(report(facts, packages))}</pre>'
            + f'<div class="tx-s-buttons">{buttons}</div>{lists}'
        )

    def _packages(self, overlay: str, packages: list[Package]) -> str:
        tr = self._tr
        title = tr("ss_packages_of").format(name=overlay) if overlay else tr("ss_packages")
        head = "".join(f'<th scope="col">{escape(tr(key))}</th>' for key in ("ss_package", "ss_version", "ss_license"))
        rows = "".join(
            f'<tr><th scope="row">{escape(one.name)}</th>{tagged("td", one.version)}'
            f"{tagged('td', one.license or '—')}</tr>"
            for one in packages
        )
        region = f'class="tx-s-scroll" tabindex="0" role="region" aria-label="{escape(title)}"'
        table = f"<div {region}><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        return fold(f"packages-{overlay or 'main'}", title, table, f"({len(packages)})")


@cache
def _known() -> tuple[dict[str, str], dict[str, list[Package]]]:
    """Reading the metadata of all packages takes about a second."""
    return machine(), installed_packages()
