"""Application state shared by the UI, the API and the CLI: makes the owners of state and hands them down."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.characters.library import CharacterLibrary
from modules.characters.personas import Personas
from modules.chat.modes import ConversationPrompts
from modules.chat.new_conversation import ConversationSetup
from modules.chat.participants import ParticipantResolver
from modules.chat.runs import Runs
from modules.chat.template_choices import TemplateChoices
from modules.chat.template_files import InstructionTemplates
from modules.chat.templates import ChatTemplates
from modules.config.credentials import Credentials
from modules.config.defaults import Defaults
from modules.config.flags import Flags
from modules.config.flags_file import FlagsFile
from modules.config.grammars import Grammars
from modules.config.model_settings import ModelSettings
from modules.config.presets import Presets
from modules.config.server_files import ServerFiles
from modules.config.settings import SettingsStore
from modules.config.settings import read as read_settings
from modules.config.trusted_code import TrustedCode
from modules.conversations.errors import ConversationNotSaved
from modules.conversations.store import ConversationStore
from modules.core.errors import BinNotEmptied, CommandLineError, OpenToNetwork, OwnerOnly, WebUIError, Words
from modules.core.paths import ROOT
from modules.core.product import FLAGS_FILE
from modules.downloads.context import TransferOptions
from modules.downloads.manager import DownloadManager
from modules.engines.prompt_cache.folder import PromptFolder
from modules.evaluation.price_loads import PriceLoads
from modules.evaluation.price_store import PriceResults
from modules.evaluation.prices import Prices
from modules.evaluation.results import EvaluationResults
from modules.evaluation.runs import EvaluationRuns
from modules.evaluation.subjects import SubjectLoader
from modules.evaluation.texts import TextLibrary
from modules.formats.server_keys import KEYS_FILE
from modules.hub.access_token import AccessToken
from modules.hub.endpoint_url import is_loopback, parse_endpoints
from modules.hub.errors import BadToken
from modules.hub.mirrors import Mirrors
from modules.llamacpp_hf_creator import LlamacppHfCreator
from modules.loaders.registry import find_loader, prepared_overlay
from modules.lora.catalog import LoraCatalog
from modules.lora.manager import LoraManager
from modules.notebook.errors import NotebookNotSaved
from modules.notebook.runs import NotebookRuns
from modules.notebook.store import NotebookStore
from modules.planning.code_consent import CodeConsent
from modules.planning.command_line import CommandLine
from modules.planning.download_fit import DownloadFit
from modules.planning.load_service import LoadService
from modules.planning.memory_budget import MemoryBudget
from modules.planning.model_deletion import ModelDeletion
from modules.planning.planner import Planner
from modules.planning.server_flags import check_server_flags, flagged_server
from modules.planning.starter_models import StarterDownloads
from modules.runtime.core_binding import CoreBinding
from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import ResidencyLimits
from modules.runtime.turns import Turns
from modules.setup.overlay_installer import OverlayInstaller
from modules.setup.preparation import Preparation
from modules.system.bin_folder import BIN
from modules.system.guess_limiter import GuessLimiter
from modules.system.leftovers import sweep
from modules.system.listener import listening_socket
from modules.system.restart import Restart
from modules.training.dataset.files import Datasets
from modules.training.dataset.formats import DataFormats
from modules.training.dataset.prepare import TrainingData
from modules.training.runs import TrainingRuns
from modules.training.service import Training

log = logging.getLogger(__name__)

_NOTEBOOK, _USERS = "notebook", "users"
"""Folders below that of the conversations: of texts, and of logins."""
_MODEL_FLAG_MISSING: Words = {
    "en": "--trust-changed-code needs --model, to say which model's code is meant.",
    "zh": "--trust-changed-code 需要与 --model 一起使用，以指明是哪个模型的代码。",
}


class App:
    """Made once in `server.py` and handed down. `cache` is the file in which the catalog keeps what it has read.

    Raises CommandLineError, ModelNotFound, UnknownLoader, LoraNotFound, SettingsError or InvalidTemplateFile for flags
    that name something that does not exist, so that a misspelled name is reported at start.
    """

    def __init__(self, flags: Flags, cache: Path | None = None) -> None:
        self.flags = flags
        self.credentials = Credentials.read(flags, os.environ)
        self.guesses = GuessLimiter()
        self.cache = cache
        self.presets = Presets(ROOT / "presets")
        self.grammars = Grammars(ROOT / "grammars")
        settings_file = flags.text("settings")
        self.settings = SettingsStore(
            Path(settings_file or ROOT / "settings.yaml"), self.presets, required=bool(settings_file)
        )
        self._make_models(flags, cache)
        self.instruction_templates = InstructionTemplates(
            Path(flags.text("template_dir") or ROOT / "instruction-templates")
        )
        self.template_choices = TemplateChoices(
            self.instruction_templates,
            self.model_settings,
            lambda: self.settings.current.instruction_template_str,
            flags.text("chat_template_file"),
        )
        self.templates = ChatTemplates(self.template_choices.apply)
        self._make_conversations(flags)
        self.overlays = OverlayInstaller()
        self.restart = Restart()
        self.flags_file = FlagsFile(ROOT / FLAGS_FILE)
        self.defaults = Defaults(self.settings)
        self.mirrors = Mirrors(flags.text("hf_endpoint"), lambda: self.settings.current.hf_endpoint, _token())
        self.loras = LoraManager(LoraCatalog(Path(flags.text("lora_dir") or ROOT / "loras")), self.models)
        self.downloads = self._make_downloads()
        self.preparation = Preparation(self.overlays, self.models, self.catalog.folder, prepared_overlay())
        self.creator = LlamacppHfCreator(self.catalog, self.model_settings, self.models, self.downloads, self.mirrors)
        self.command_line = self._read_command_line()
        self.consent = CodeConsent(TrustedCode(self.catalog.folder), bool(flags.load.get("trust_remote_code")))
        self.planner = Planner(
            self.command_line,
            self.settings,
            self.model_settings,
            self.consent,
            self.memory,
            self.loras,
            self.refuse_strangers,
        )
        self.loading = LoadService(self.models, self.loras, self.consent, self.overlays, self.templates)
        self.download_fit = DownloadFit(self.planner, self.memory, self.mirrors)
        self.starters = StarterDownloads(
            self.downloads, self.catalog, self.models, self.planner, self.loading, self.memory
        )
        self.deletion = ModelDeletion(
            self.catalog, self.model_settings, self.models, self.downloads, self.record, self.prompt_files
        )
        self.turns = Turns()
        self._make_evaluations(flags)
        self._make_training(flags)

    def _make_models(self, flags: Flags, cache: Path | None) -> None:
        """Make the owners of the models on the disk, of their settings, and of the models in memory."""
        self.catalog = Catalog(Path(flags.text("model_dir") or ROOT / "models"), cache)
        self.server_files = ServerFiles(self.catalog.folder)
        self.model_settings = ModelSettings(self.catalog.folder, self._is_model)
        self.memory = MemoryBudget()
        self._cores = CoreBinding()
        self.prompt_files = _prompt_folder(flags, cache)
        self.models = ModelManager(
            self._cores,
            self.memory,
            _limits(flags),
            conceals_addresses=self.has_guests,
            prompts=self.prompt_files,
        )

    def _make_downloads(self) -> DownloadManager:
        return DownloadManager(
            {"model": self.catalog.folder, "lora": self.loras.catalog.folder},
            self.mirrors.open_clients,
            TransferOptions(connections=self.settings.current.download_connections),
            self.settings.current.downloads_at_once,
        )

    def _make_evaluations(self, flags: Flags) -> None:
        """Make the owners of evaluations, of prices of options, and of the texts that they read."""
        cache = ROOT / "cache" / "kl"
        self.texts = TextLibrary(Path(flags.text("dataset_dir") or ROOT / "training" / "datasets"))
        loader = SubjectLoader(self.models, self.planner, self.loading, self.record, self.memory)
        results = EvaluationResults(self.logs_folder / "evaluations.csv")
        self.evaluations = EvaluationRuns(self.texts, loader, results, cache, self.turns)
        loads = PriceLoads(self.models, self.planner, self.loading, self.record, self._cores)
        self.prices = Prices(loads, PriceResults(self.catalog.folder), self.texts, cache, self.turns)

    def _make_training(self, flags: Flags) -> None:
        """Make the owners of training data and of training runs."""
        data = TrainingData(
            Datasets(Path(flags.text("dataset_dir") or ROOT / "training" / "datasets")),
            DataFormats(ROOT / "training" / "formats"),
            self.templates,
            self.instruction_templates,
        )
        folder = Path(flags.text("run_dir") or ROOT / "training" / "runs")
        runs = TrainingRuns(folder, self.loras.catalog.folder, turns=self.turns)
        self.training = Training(runs, data, self.record, self.planner, self.loras, self.memory, self.catalog.folder)

    def _make_conversations(self, flags: Flags) -> None:
        """Make the owners of conversations, texts and characters, and of the runs that write."""
        self.logs_folder = Path(flags.text("logs_dir") or ROOT / "logs")
        self.conversations = ConversationStore(self.logs_folder)
        self.notebooks = NotebookStore(self.logs_folder / _NOTEBOOK, ROOT / "prompts")
        self.notebook_runs = NotebookRuns()
        self.characters = CharacterLibrary(Path(flags.text("character_dir") or ROOT / "characters"))
        self.personas = Personas(Path(flags.text("persona_dir") or ROOT / "users"))
        personas = None if flags.on("multi_user") else self.personas
        self.participants = ParticipantResolver(self.characters, personas, self.settings)
        self.prompts = ConversationPrompts(self.templates, self.participants)
        self.setup = ConversationSetup(self.participants, self.templates, self.models)
        self.runs = Runs(self.prompts)

    def _read_command_line(self) -> CommandLine:
        model = self._find_model(self.flags, self.catalog)
        if self.flags.on("trust_changed_code") and model is None:
            raise CommandLineError(_MODEL_FLAG_MISSING)
        loras = self._flagged_loras(self.flags, model)
        if self.flags.text("loader"):
            find_loader(self.flags.text("loader"))
        return CommandLine(self.flags, model, loras)

    def _flagged_loras(self, flags: Flags, model: ModelRecord | None) -> dict[str, object]:
        return self.loras.parse_flag(flags.text("lora"), on_server=model is not None and model.server is not None)

    def _find_model(self, flags: Flags, catalog: Catalog) -> ModelRecord | None:
        """Return the model of `--model` or `--server-url`. One outside the folder of models is named by its path."""
        name = flags.text("model")
        check_server_flags(flags)
        if not name:
            return flagged_server(flags, catalog.folder, names_host=not self.has_guests)
        record = catalog.find(name, paths=True)
        inside = record.path.is_relative_to(catalog.folder)
        return record if inside else dataclasses.replace(record, name=str(record.path))

    def _is_model(self, name: str) -> bool:
        return self.catalog.find_exact(name) is not None

    def conversations_of(self, user: str) -> ConversationStore:
        """Return the conversations of a login, for servers of several users."""
        return ConversationStore(self._folder_of(user))

    def notebooks_of(self, user: str) -> NotebookStore:
        """Return the texts of a login, for servers of several users."""
        return NotebookStore(self._folder_of(user) / _NOTEBOOK)

    def _folder_of(self, user: str) -> Path:
        readable, unique = re.sub(r"[^\w-]", "_", user)[:40], hashlib.sha256(user.encode()).hexdigest()[:8]
        return self.logs_folder / _USERS / f"{readable}-{unique}"

    def sweep(self) -> None:
        """Delete what killed saves, downloads and conversions have left behind. Called once, at start."""
        settings = self.settings.path
        for file in (
            settings,
            self.flags_file.path,
            self.catalog.folder / "config-user.yaml",
            self.catalog.folder / ".trusted.yaml",
            self.catalog.folder / KEYS_FILE,
            self.prices.results.path,
        ):
            sweep(file.parent, [file.name])
        if self.cache is not None:
            sweep(self.cache.parent, [self.cache.name])
        self.downloads.sweep()
        self.deletion.sweep()
        self.loras.catalog.sweep()
        self.evaluations.sweep()
        self.training.runs.sweep()
        self._empty_bins()

    def _empty_bins(self) -> None:
        """Delete for good what has been in the bins for 30 days, also in those of logins."""
        bins: list[Callable[[], object]] = [
            self.conversations.empty_bin,
            self.notebooks.empty_bin,
            self.characters.empty_bin,
            self.personas.empty_bin,
        ]
        for bin in sorted((self.logs_folder / _USERS).glob(f"*/{BIN}")):
            bins.append(ConversationStore(bin.parent).empty_bin)
        for bin in sorted((self.logs_folder / _USERS).glob(f"*/{_NOTEBOOK}/{BIN}")):
            bins.append(NotebookStore(bin.parent).empty_bin)
        for empty_bin in bins:
            try:
                empty_bin()
            except (ConversationNotSaved, NotebookNotSaved, BinNotEmptied) as error:  # no reason not to start
                log.warning("%s", error)

    # -- models to choose from ----------------------------------------------------------------------------------------

    @property
    def named_model(self) -> ModelRecord | None:
        """The model of `--model`."""
        return self.command_line.model

    def record(self, name: str) -> ModelRecord:
        """Return the model of that name: one of the catalog, or the one of `--model`. Raises ModelNotFound."""
        named = self.named_model
        return named if named is not None and named.name == name else self.catalog.find(name)

    def selectable_models(self) -> list[ModelRecord]:
        """Return all models to choose from; first the one of `--model`, if it lies outside the folder of models."""
        records, named = self.catalog.models(LIST_SECONDS), self.named_model
        if named is None or any(record.name == named.name for record in records):
            return records
        return [named, *records]

    def default_model(self, *names: object) -> str | None:
        """Pick the model to select when the previous selection, the first of `names`, no longer exists.

        The other `names` come next, then the model in use, that of `--model`, the first one that can be loaded, and any
        other; models that generate text before others. Returns None if there are no models.
        """
        records = sorted(self.selectable_models(), key=lambda record: bool(record.task))
        all_names = [record.name for record in records]
        loadable = [record.name for record in records if record.problem is None]
        named = self.named_model.name if self.named_model else ""
        candidates = (*names, self.models.status.name, named, *loadable, *all_names)
        return next((str(name) for name in candidates if name in all_names), None)

    def check_flags(self, flags: Flags) -> None:
        """Raise what a start with these flags would raise: for names and files that do not exist, and a port in use."""
        Credentials.read(flags, os.environ)
        if settings := flags.text("settings"):
            read_settings(Path(settings), required=True)
        if loader := flags.text("loader"):
            find_loader(loader)
        folder = Path(os.path.abspath(flags.text("model_dir") or ROOT / "models"))
        model = self._find_model(flags, self.catalog if folder == self.catalog.folder else Catalog(folder))
        if flags.text("lora_dir") == self.flags.text("lora_dir"):
            self._flagged_loras(flags, model)
        parse_endpoints(flags.text("hf_endpoint"))
        if flags.address[1] != self.flags.address[1]:
            listening_socket(*flags.address).close()

    def forget_prompts(self) -> None:
        """Delete all saved prompts, and what idle models hold in their KV caches. Raises BinNotEmptied."""
        if self.prompt_files is None:
            return
        for model in self.models.loaded():
            if model.loader.keeps_prompts:
                with contextlib.suppress(WebUIError):  # it is gone, or has no cache
                    model.ask("forget")
        self.prompt_files.clear()

    @property
    def serves_others(self) -> bool:
        """Whether other machines can reach the server, directly or by a reverse proxy."""
        return not is_loopback(self.flags.address[0]) or bool(self.flags.text("public_host"))

    @property
    def has_guests(self) -> bool:
        """Whether people use the program who are not its owner: with `--multi-user`, or a key for using models."""
        return self.flags.on("multi_user") or not all(key.is_owner for key in self.credentials.keys)

    def refuse_guests(self) -> None:
        """Raise OwnerOnly with `--multi-user`: users of the UI may change neither the model nor settings."""
        if self.flags.on("multi_user"):
            raise OwnerOnly()

    def refuse_strangers(self) -> None:
        """Raise OwnerOnly for guests, and OpenToNetwork where anyone on the network is taken for the owner."""
        self.refuse_guests()
        if self.serves_others and not self.credentials.required:
            raise OpenToNetwork()


def _limits(flags: Flags) -> ResidencyLimits:
    minutes = int(flags.server["idle_timeout"])
    return ResidencyLimits(models=int(flags.server["models_max"]), idle_seconds=60.0 * minutes if minutes else None)


def _prompt_folder(flags: Flags, cache: Path | None) -> PromptFolder | None:
    """Return the folder of saved prompts, beside the file `cache`. With `--multi-user` nothing is saved there.

    What guests without a login write is in memory alone.
    """
    gigabytes = 0.0 if flags.on("multi_user") else float(flags.server["prompt_cache_gb"])
    return PromptFolder(cache.parent / "prompts", int(gigabytes * 10**9)) if cache is not None else None


def _token() -> AccessToken | None:
    try:
        return AccessToken.from_environment(os.environ)
    except BadToken as error:  # no reason not to start
        log.warning("HF_TOKEN: %s", error)
        return None
