"""The llamacpp_HF creator puts a GGUF file and its tokenizer in one folder, or leaves everything unchanged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import ModelInUse, ModelNotFound, Unsupported, WebUIError
from modules.downloads.errors import ChecksumMismatch, DiskRefused, TargetExists
from modules.downloads.install_files import METADATA
from modules.downloads.manager import DownloadManager
from modules.hub.errors import BadAddress, RepositoryNotFound, Stopped, TokenizerMissing
from modules.hub.mirrors import Mirrors
from modules.llamacpp_hf_creator import CreatedModel, LlamacppHfCreator
from modules.planning.load_request import LoadRequest
from tests.support import hub_server
from tests.support.checkpoint_files import checkpoint
from tests.support.downloading import HASTY, until
from tests.support.gguf_files import gguf
from tests.support.hub_server import Content

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAME, FOLDER = "SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1-HF"
MOVED = f"{FOLDER}/{NAME}"
TOKENIZER_FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def served(tiny_folder: Path) -> Iterator[hub_server.HubServer]:
    files: dict[str, Content] = {name: tiny_folder / name for name in TOKENIZER_FILES}
    files |= {"model.safetensors": b"weights", "modeling.py": b"raise SystemExit", "README.md": b"#"}
    files |= {"onnx/tokenizer.json": b"{}", "onnx/config.json": b"{}"}
    with hub_server.HubServer() as hub:
        hub.add(REPO, files)
        yield hub


@pytest.fixture
def models(tmp_path: Path, tiny: Path) -> Path:
    """A folder of models with the tiny model."""
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny, folder / NAME)
    return folder


@pytest.fixture
def app(make_app: Callable[..., App], models: Path) -> App:
    return make_app()


@pytest.fixture
def downloads(models: Path, served: hub_server.HubServer) -> Iterator[DownloadManager]:
    open_clients = Mirrors(served.url, lambda: "").open_clients
    manager = DownloadManager({"model": models, "lora": models.parent / "loras"}, open_clients, HASTY, reserve=0)
    yield manager
    manager.close()


@pytest.fixture
def creator(app: App, downloads: DownloadManager, served: hub_server.HubServer) -> LlamacppHfCreator:
    return LlamacppHfCreator(app.catalog, app.model_settings, app.models, downloads, Mirrors(served.url, lambda: ""))


def create(creator: LlamacppHfCreator, model: str = NAME, address: str = REPO) -> CreatedModel:
    return creator.start(model, address).outcome.result(30)


def tree(folder: Path) -> dict[str, int]:
    """Return the inodes of all files in a folder by path, except hidden files, which belong to the program."""
    inodes = {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*")}
    return {name: inode for name, inode in inodes.items() if not name.startswith(".")}


@pytest.mark.parametrize("revision", ["", ":main", "/tree/main"])
def test_the_tokenizer_files_and_the_model_are_put_in_one_folder(
    creator: LlamacppHfCreator, app: App, models: Path, tiny_folder: Path, served: hub_server.HubServer, revision: str
) -> None:
    inode = (models / NAME).stat().st_ino
    created = create(creator, address=f"{served.url}/{REPO}{revision}" if "/" in revision else REPO + revision)
    assert (created.name, created.folder, created.problem) == (MOVED, models / FOLDER, None)
    assert {path.name for path in (models / FOLDER).iterdir()} == {*TOKENIZER_FILES, METADATA, NAME}
    assert all((models / FOLDER / name).read_bytes() == (tiny_folder / name).read_bytes() for name in TOKENIZER_FILES)
    assert (models / MOVED).stat().st_ino == inode, "the file was moved, not copied"
    assert [record.name for record in app.catalog.models()] == [MOVED] == creator.models()
    assert not served.requests("safetensors|[.]py|onnx")


def test_llamacpp_hf_uses_the_tokenizer_next_to_the_model(
    creator: LlamacppHfCreator, app: App, tiny_folder: Path, served: hub_server.HubServer
) -> None:
    config = (tiny_folder / "tokenizer_config.json").read_text(encoding="utf-8")
    files = {name: tiny_folder / name for name in TOKENIZER_FILES}
    changed = config.replace('"bos_token": "<|im_start|>"', '"bos_token": "<|endoftext|>"')
    assert changed != config
    served.add(REPO, {**files, "tokenizer_config.json": changed.encode()})
    created = create(creator)
    record = app.record(created.name)
    plan = app.planner.plan(LoadRequest(record, form={"n_ctx": 256, "threads": 1}))
    assert plan.loader.name == "llamacpp_HF"
    loaded = app.loading.load(plan)
    assert loaded.info.special_tokens["bos_token"] == "<|endoftext|>", "the GGUF file has <|im_start|>"
    assert loaded.info.notes == ()


def test_all_parts_of_a_split_model_are_moved(creator: LlamacppHfCreator, models: Path, app: App) -> None:
    parts = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        (models / NAME).rename(models / part) if part == parts[1] else shutil.copy(models / NAME, models / part)
    created = create(creator, parts[0])
    assert created.name == f"big-HF/{parts[0]}"
    assert {path.name for path in (models / "big-HF").glob("*.gguf")} == set(parts)
    assert [record.name for record in app.catalog.models()] == [created.name]


def test_if_a_part_cannot_be_moved_the_others_are_moved_back(
    creator: LlamacppHfCreator, models: Path, served: hub_server.HubServer
) -> None:
    parts = [models / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    shutil.copy(models / NAME, parts[0])
    (models / NAME).rename(parts[1])
    before = tree(models)
    served.fault("tree", delay=0.5)
    creation = creator.start(parts[0].name, REPO)
    parts[1].rename(models.parent / "gone")
    with pytest.raises(DiskRefused):
        creation.outcome.result(30)
    (models.parent / "gone").rename(parts[1])
    assert tree(models) == before


def test_a_relative_link_to_the_model_still_works_after_the_move(creator: LlamacppHfCreator, models: Path) -> None:
    (models / NAME).rename(models.parent / "elsewhere.gguf")
    (models / NAME).symlink_to("../elsewhere.gguf")
    create(creator)
    assert (models / MOVED).is_symlink() and (models / MOVED).samefile(models.parent / "elsewhere.gguf")


def test_saved_settings_are_moved_to_the_new_name_with_their_comments(
    creator: LlamacppHfCreator, app: App, models: Path
) -> None:
    settings = models / "config-user.yaml"
    settings.write_text(f"# mine\nother.gguf:\n  threads: 2\n{NAME}:\n  n_ctx: 512  # enough\n  loader: llama.cpp\n")
    create(creator)
    assert dict(app.model_settings.get(MOVED)) == {"n_ctx": 512, "loader": "llamacpp_HF"}
    assert app.model_settings.get(NAME) == {}
    text = settings.read_text()
    assert "# mine" in text and "# enough" in text and "other.gguf" in text


def test_unreadable_settings_are_kept_and_reported(creator: LlamacppHfCreator, models: Path) -> None:
    (models / "config-user.yaml").write_text("a: [")
    problem = create(creator).problem
    assert problem is not None and "config-user.yaml: line 2" in problem.say("en")
    assert (models / "config-user.yaml").read_text() == "a: ["


# -- failures that leave everything unchanged --------------------------------------------------------------------------


def refusal(
    creator: LlamacppHfCreator, models: Path, error: type[Exception], model: str = NAME, address: str = REPO
) -> str:
    before = tree(models)
    with pytest.raises(error) as caught:
        create(creator, model, address)
    assert tree(models) == before
    return str(caught.value)


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_a_repository_without_a_tokenizer_is_refused(
    creator: LlamacppHfCreator, models: Path, served: hub_server.HubServer, tiny_folder: Path, missing: str
) -> None:
    served.add(REPO, {name: tiny_folder / name for name in TOKENIZER_FILES - {missing}})
    assert "no tokenizer files" in refusal(creator, models, TokenizerMissing)


def test_a_wrong_checksum_leaves_the_model_unmoved(
    creator: LlamacppHfCreator, models: Path, served: hub_server.HubServer, downloads: DownloadManager
) -> None:
    served.fault("tokenizer.json", origin="cdn", corrupt=1000)
    assert "tokenizer.json failed verification" in refusal(creator, models, ChecksumMismatch)
    assert downloads.snapshot() == ()
    served.faults.clear()
    assert create(creator).name == MOVED


def test_an_invalid_address_is_reported(creator: LlamacppHfCreator, models: Path) -> None:
    refusal(creator, models, RepositoryNotFound, address="no/body")
    refusal(creator, models, BadAddress, address="not an address")
    refusal(creator, models, ModelNotFound, model="other.gguf")


def test_only_whole_gguf_files_are_accepted(creator: LlamacppHfCreator, models: Path) -> None:
    (models / "cut.gguf").write_bytes(gguf()[:-100])
    checkpoint(models / "llama")
    assert "truncated" in refusal(creator, models, WebUIError, model="cut.gguf")
    assert "llama is not a GGUF file" in refusal(creator, models, Unsupported, model="llama")
    assert creator.models() == [NAME]


def test_an_existing_folder_is_not_touched(creator: LlamacppHfCreator, models: Path) -> None:
    (models / FOLDER).mkdir()
    (models / FOLDER / "config.json").write_text("mine")
    assert FOLDER in refusal(creator, models, TargetExists)


def test_leftovers_of_an_interrupted_creation_are_reused(
    creator: LlamacppHfCreator, models: Path, downloads: DownloadManager
) -> None:
    create(creator)
    (models / MOVED).rename(models / NAME)
    (models / FOLDER / "config.json").write_text("damaged")
    create(creator)
    assert (models / MOVED).is_file() and (models / FOLDER / "config.json").read_text() != "damaged"


def test_a_model_in_use_is_not_moved(creator: LlamacppHfCreator, models: Path, app: App) -> None:
    app.loading.load(app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 256, "threads": 1})))
    assert "Unload it" in refusal(creator, models, ModelInUse)
    app.models.unload()
    assert create(creator).name == MOVED


def test_a_model_loaded_during_the_download_is_not_moved(
    creator: LlamacppHfCreator, models: Path, app: App, served: hub_server.HubServer
) -> None:
    before = tree(models)
    served.fault("tree", delay=2)
    creation = creator.start(NAME, REPO)
    app.loading.load(app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 256, "threads": 1})))
    with pytest.raises(ModelInUse):
        creation.outcome.result(30)
    assert tree(models) == before


def test_cancelling_the_download_ends_the_creation(
    creator: LlamacppHfCreator, models: Path, downloads: DownloadManager, served: hub_server.HubServer
) -> None:
    before = tree(models)
    served.fault("tokenizer.json", rate=50_000)
    creation = creator.start(NAME, REPO)
    until(lambda: creation.download and creation.download.done > 0)
    assert creation.download
    downloads.cancel(creation.download.id)
    with pytest.raises(Stopped):
        creation.outcome.result(30)
    assert tree(models) == before


def test_a_paused_download_is_awaited_and_no_second_creation_starts(
    creator: LlamacppHfCreator, models: Path, downloads: DownloadManager, served: hub_server.HubServer
) -> None:
    slow = served.fault("tokenizer.json", rate=50_000)
    creation = creator.start(NAME, REPO)
    with pytest.raises(ModelInUse):
        creator.start(NAME, REPO)
    until(lambda: creation.download and creation.download.done > 0)
    assert creation.download
    downloads.pause(creation.download.id)
    until(lambda: creation.download and creation.download.state == "paused")
    time.sleep(0.3)
    assert not creation.outcome.done()
    served.faults.remove(slow)
    downloads.resume(creation.download.id)
    assert creation.outcome.result(30).name == MOVED
