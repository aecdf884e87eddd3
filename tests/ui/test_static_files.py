"""The scripts and style sheets of the page, and the tags that load them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.ui.static_files import FOLDER, StaticFiles, scale_text


@pytest.fixture
def files(tmp_path: Path) -> StaticFiles:
    (tmp_path / "shell.js").write_text('import { tr } from "./texts.js"; tr("stop"); tr(\n  "send", {});')
    (tmp_path / "shell.css").write_text("a { color: red }")
    (tmp_path / "notes.txt").write_text("not served")
    return StaticFiles(tmp_path)


def get(files: StaticFiles, path: str) -> Any:
    server = FastAPI()
    files.add_route(server)
    return TestClient(server).get(path)


def test_files_are_served_for_ever_under_a_hash_of_their_contents(files: StaticFiles) -> None:
    answer = get(files, f"/ui/{files.version}/shell.js")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    assert get(files, f"/ui/{files.version}/shell.css").headers["content-type"] == "text/css; charset=utf-8"


def test_nothing_else_is_served(files: StaticFiles, subtests: pytest.Subtests) -> None:
    paths = [
        "/notes.txt",
        "/../static_files.py",
        "/%2e%2e/static_files.py",
        "/..%2fstatic_files.py",
        "/",
        "//etc/passwd",
    ]
    for path in [f"/ui/{files.version}{path}" for path in paths] + ["/ui/0123456789abcdef/shell.js"]:
        with subtests.test(path=path):
            assert get(files, path).status_code == 404


def test_sizes_of_text_grow_with_the_size_chosen(subtests: pytest.Subtests) -> None:
    for css, served in (
        ("a { font-size: 12.5px; }", "a { font-size: calc(12.5px * var(--tx-text-scale)); }"),
        ("a{font:13px/1.5 x}", "a{font:calc(13px * var(--tx-text-scale))/1.5 x}"),
        (
            "a { font-size: 16px !important; }",
            "a { font-size: max(16px, calc(16px * var(--tx-text-scale))) !important; }",
        ),
        ("a { width: 12px; font-weight: 600; height: 9px; }", "a { width: 12px; font-weight: 600; height: 9px; }"),
        ("a { font-size: 1.2em; top: 3px; }", "a { font-size: 1.2em; top: 3px; }"),
        ("a { --my-font-size: 9px; }", "a { --my-font-size: 9px; }"),
    ):
        with subtests.test(css=css):
            assert scale_text(css) == served


def test_the_hash_changes_with_any_file(files: StaticFiles, tmp_path: Path) -> None:
    (tmp_path / "shell.css").write_text("a { color: blue }")
    assert StaticFiles(tmp_path).version != files.version


def test_the_page_contains_the_texts_that_scripts_use(files: StaticFiles) -> None:
    texts = re.search('id="tx-texts">(.*?)</script>', files.tags("zh"))
    assert texts and json.loads(texts[1]) == {"stop": "停止", "send": "发送"}


def test_the_texts_cannot_end_their_script_element(files: StaticFiles) -> None:
    assert "<" not in re.search('id="tx-texts">(.*?)</script>', files.tags("en"))[1]


def test_every_text_that_the_scripts_use_exists_and_every_import_is_served(subtests: pytest.Subtests) -> None:
    assert StaticFiles().tags("en")
    for script in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./(.+?)"', script.read_text(encoding="utf-8")):
            with subtests.test(script=script.name, imports=name):
                assert (FOLDER / name).is_file()


def test_every_name_that_a_script_imports_is_exported(subtests: pytest.Subtests) -> None:
    for script in FOLDER.glob("*.js"):
        for names, source in re.findall(r'import \{([^}]*)\} from "\./(.+?)"', script.read_text(encoding="utf-8")):
            wanted = {name.split(" as ")[0].strip() for name in names.split(",")}
            text = (FOLDER / source).read_text(encoding="utf-8")
            with subtests.test(script=script.name, source=source):
                assert wanted <= set(re.findall(r"^export (?:async )?(?:const|let|function|class) (\w+)", text, re.M))
