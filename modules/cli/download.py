"""The command `download-model.py`: download or verify a model or LoRA.

Exit status: 0 if all files are present and verified, 1 if not, 2 for invalid arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.cli import download_flags
from modules.cli.download_progress import ProgressDisplay, format_size, waiting_text
from modules.config import settings
from modules.core.errors import CommandLineError, OptionError, UnknownOption, WebUIError
from modules.core.paths import ROOT
from modules.downloads.checksum import expected_hash, hash_file, new_digest
from modules.downloads.context import TransferOptions
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.request import FileCriteria, Selection, select_files
from modules.downloads.retry import MirrorRotation, RetryPolicy
from modules.downloads.view import JobView
from modules.hub.access_token import AccessToken
from modules.hub.errors import BadAddress, BadEndpoint, BadToken, DownloadError
from modules.hub.mirrors import Mirrors
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import Kind, RemoteFile, Repository
from modules.options.option import Value
from modules.system.terminal import prepare_streams, terminal_language

_ARGUMENT_ERRORS = (CommandLineError, OptionError, UnknownOption, BadAddress, BadEndpoint, BadToken)
_POLL_SECONDS = 0.2

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "queued": "queued",
        "resolving": "contacting {host}",
        "downloading": "downloading",
        "paused": "paused",
        "verifying": "verifying",
        "elsewhere": "another process is downloading it",
        "moved": "{revision} now points to another commit; starting over.",
        "done": "Saved to {folder}: {count} files, {size}, all verified (against the hashes listed by {host}).",
        "stopped": "Stopped. Downloaded data is kept; run the same command to continue.",
        "waiting": "retrying in {seconds} s ({attempt} of {attempts}): {error}",
        "rate_limited": "{host} limits the request rate; retrying in {seconds} s",
        "paused_elsewhere": "Another process has paused it. Run the same command to continue.",
        "cancelled_elsewhere": "Another process has cancelled it. Run the same command to start over.",
        "file": "file {index}/{count}",
        "ok": "ok       {path}",
        "missing": "missing  {path}",
        "damaged": "damaged  {path}",
        "all_ok": "All {count} files are present and correct.",
        "not_ok": "{bad} of {count} files are missing or damaged.",
    },
    "zh": {
        "queued": "排队中",
        "resolving": "正在连接 {host}",
        "downloading": "正在下载",
        "paused": "已暂停",
        "verifying": "正在校验",
        "elsewhere": "另一进程正在下载",
        "moved": "{revision} 已指向新的版本，重新开始下载。",
        "done": "已保存到 {folder}：{count} 个文件，{size}，全部校验通过（校验值来自 {host}）。",
        "stopped": "已停止。已下载的部分会保留，再次运行相同命令即可继续。",
        "waiting": "{seconds} 秒后重试（第 {attempt}/{attempts} 次）：{error}",
        "rate_limited": "{host} 限制了请求频率，{seconds} 秒后自动重试",
        "paused_elsewhere": "另一进程已将其暂停。再次运行相同命令即可继续。",
        "cancelled_elsewhere": "另一进程已将其取消。再次运行相同命令即可重新下载。",
        "file": "文件 {index}/{count}",
        "ok": "正确  {path}",
        "missing": "缺少  {path}",
        "damaged": "损坏  {path}",
        "all_ok": "{count} 个文件齐全且正确。",
        "not_ok": "{count} 个文件中有 {bad} 个缺少或损坏。",
    },
}


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    prepare_streams()
    language = terminal_language()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # failures are printed below
    try:
        options = download_flags.parse(arguments)
        command = DownloadCommand(options, os.environ, language)
        return command.verify() if options["check"] else command.download()
    except WebUIError as error:
        print(error.say(language), file=sys.stderr)
        return 2 if isinstance(error, _ARGUMENT_ERRORS) else 1
    except KeyboardInterrupt:
        print("\n" + _WORDS[language]["stopped"], file=sys.stderr)
        return 130


class DownloadCommand:
    """One execution of the command, with the `options` of `download_flags.parse`."""

    def __init__(self, options: Mapping[str, Value], environment: Mapping[str, str], language: str) -> None:
        self._options, self._words, self._language = options, _WORDS[language], language
        token = AccessToken.from_environment(environment)
        self._mirrors = Mirrors(self._text("hf_endpoint"), _endpoint_setting, token)
        output = Path(self._text("output")) if options["output"] else None
        folders: dict[Kind, Path] = {
            "model": output or Path(self._text("model_dir") or ROOT / "models"),
            "lora": output or Path(self._text("lora_dir") or ROOT / "loras"),
        }
        self._transfers = self._transfer_options()
        self._downloads = DownloadManager(folders, self._mirrors.open_clients, self._transfers)

    def _text(self, key: str) -> str:
        return str(self._options[key])

    def _transfer_options(self) -> TransferOptions:
        retries, waits = int(self._options["max_retries"]), RetryPolicy().waits
        waits = (*waits, *[waits[-1]] * retries)[:retries]
        return TransferOptions(retry=RetryPolicy(waits=waits), connections=int(self._options["threads"]))

    # -- what to download -------------------------------------------------------------------------------------------

    def _select(self) -> tuple[Selection, DownloadSpec]:
        address = self._mirrors.parse_address(self._text("MODEL"), self._text("branch"))
        repository = self._repository(address)
        file = self._text("specific_file")
        criteria = FileCriteria(
            files=(file,) if file else (),
            metadata_only=bool(self._options["text_only"]),
            unattended=True,
            allow_pickles=bool(self._options["allow_pickles"]),
            exclude=self._text("exclude_pattern"),
        )
        selection = select_files(repository, address, criteria)
        selection = dataclasses.replace(selection, kind=self._mirrors.kind(repository, selection.files))
        spec = selection.spec
        return selection, dataclasses.replace(spec, target="") if self._options["output"] else spec

    def _repository(self, address: RepoAddress) -> Repository:
        """Return the list of files, which is asked for as often as their contents."""
        rotation = MirrorRotation(self._transfers.retry, [self._mirrors], [])
        while True:
            try:
                return rotation.current.repository(address)
            except DownloadError as error:
                wait = rotation.record_failure(error)
            assert wait is not None, "there is no other to turn to"
            seconds = max(0.0, wait.until - time.monotonic())
            print(
                waiting_text(self._words, self._language, wait.error, seconds, wait.attempt, wait.attempts), flush=True
            )
            time.sleep(seconds)

    # -- downloading ------------------------------------------------------------------------------------------------

    def download(self) -> int:
        """Download the selected files and return the exit status."""
        selection, spec = self._select()
        try:
            view = self._run(selection, spec)
        finally:
            self._downloads.close()
            if self._options["output"]:  # a folder of the user's, which is to have the files and nothing else
                self._downloads.delete_store()
        if view is None or view.state == "paused":
            print(self._words["paused_elsewhere" if view else "cancelled_elsewhere"], file=sys.stderr)
            return 1
        facts = {"folder": view.folder, "count": len(selection.files), "size": format_size(selection.size)}
        print(self._words["done"].format(**facts, host=view.host))
        return 0

    def _run(self, selection: Selection, spec: DownloadSpec) -> JobView | None:
        """Download until the job is done, or another process has paused it, or cancelled it, which returns None.

        Raises the error with which it fails.
        """
        if self._options["clean"]:
            self._cancel_existing(spec)
        job, progress = self._downloads.start(spec), ProgressDisplay(sys.stdout, self._words, self._language)
        while True:
            view = next((view for view in self._downloads.snapshot() if view.id == job), None)
            if view is None and not self._is_complete(selection, spec):
                progress.end()
                return None
            if view is None or view.interrupted:  # another process had the job, and has finished or left it
                job = self._downloads.start(spec)
            elif view.moved:
                progress.print(self._words["moved"].format(revision=spec.revision))
                self._downloads.resume(job, keep_commit=False)
            elif view.error:
                progress.end()
                raise view.error
            elif view.state in ("done", "paused"):
                progress.end()
                return view
            else:
                progress.show(view)
            time.sleep(_POLL_SECONDS)

    def _is_complete(self, selection: Selection, spec: DownloadSpec) -> bool:
        """Return whether all files are there, by their sizes."""
        target = self._downloads.install_target(spec)
        paths = {file: target.root / target.path_in_root(file.path) for file in selection.files}
        return all(path.is_file() and path.stat().st_size == file.size for file, path in paths.items())

    def _cancel_existing(self, spec: DownloadSpec) -> None:
        """Delete what an earlier, interrupted download of the same files has left."""
        for view in self._downloads.snapshot():
            if view.spec.identity == spec.identity:
                self._downloads.cancel(view.id)

    # -- verifying --------------------------------------------------------------------------------------------------

    def verify(self) -> int:
        """Verify the local copies of the selected files and return the exit status."""
        selection, spec = self._select()
        target = self._downloads.install_target(spec)
        states = {file: _file_state(file, target.root / target.path_in_root(file.path)) for file in selection.files}
        for file, state in states.items():
            print(self._words[state].format(path=target.path_in_root(file.path)))
        bad = sum(state != "ok" for state in states.values())
        print(self._words["not_ok" if bad else "all_ok"].format(bad=bad, count=len(states)))
        return 1 if bad else 0


def _endpoint_setting() -> str:
    return settings.read(ROOT / "settings.yaml").hf_endpoint


def _file_state(file: RemoteFile, path: Path) -> str:
    """Return "ok", "missing" or "damaged"."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return "missing"
    try:
        if os.fstat(descriptor).st_size != file.size:
            return "damaged"
        digest = hash_file(descriptor, new_digest(file), lambda _: None)
        return "ok" if digest == expected_hash(file) else "damaged"
    except OSError:  # a folder, or a disk that cannot be read
        return "damaged"
    finally:
        os.close(descriptor)
