"""Models on servers in the catalog: files directly in the folder of models, by name and short name."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.deletion import ModelBin, plan_deletion
from modules.catalog.record import short_names
from modules.core.errors import ModelNotFound
from modules.formats.server_file import ServerFile
from tests.support.gguf_files import gguf

TEXT = "url: http://127.0.0.1:8080/v1\nmodel: m\n"


def test_a_file_in_the_folder_of_models_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "my server.server.yaml").write_text(TEXT)
    (record,) = Catalog(tmp_path).models()
    assert (record.name, record.format, record.size, record.problem) == ("my server.server.yaml", "server", 0, None)
    assert record.server == ServerFile("http://127.0.0.1:8080", "m")
    assert record.defaults == {"server_url": "http://127.0.0.1:8080", "server_model": "m"}


def test_it_is_found_without_its_extension(tmp_path: Path) -> None:
    (tmp_path / "a.server.yaml").write_text(TEXT)
    catalog = Catalog(tmp_path)
    assert catalog.find("a") == catalog.find("a.server.yaml") == catalog.find_exact("a.server.yaml")
    assert "a" in short_names("a.server.yaml")


def test_a_file_in_a_subfolder_is_not_a_model_because_downloads_make_those(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "a.server.yaml").write_text(TEXT)
    catalog = Catalog(tmp_path)
    assert catalog.models() == []
    with pytest.raises(ModelNotFound):
        catalog.find("repository/a.server.yaml")


def test_two_files_with_the_same_content_are_not_duplicates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.server.yaml").write_text(TEXT)
    assert [record.duplicate_of for record in Catalog(tmp_path).models()] == ["", ""]


def test_a_damaged_file_is_listed_with_its_problem_and_read_again_once_it_changes(tmp_path: Path) -> None:
    catalog, file = Catalog(tmp_path, tmp_path / "cache.json"), tmp_path / "a.server.yaml"
    file.write_text("url: nowhere\n")
    (record,) = catalog.models()
    assert (record.format, record.state, record.server) == ("server", "damaged", None)
    file.write_text(TEXT)
    assert catalog.models()[0].problem is None
    assert Catalog(tmp_path, tmp_path / "cache.json").models()[0].server == ServerFile("http://127.0.0.1:8080", "m")


def test_deleting_moves_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.server.yaml").write_text(TEXT)
    (tmp_path / "b.gguf").write_bytes(gguf())
    catalog, bin = Catalog(tmp_path), ModelBin(tmp_path)
    entry = bin.delete(plan_deletion(tmp_path, catalog.find("a"), catalog.models()), {})
    assert [record.name for record in catalog.models()] == ["b.gguf"]
    bin.restore(entry.id)
    assert catalog.find("a").server is not None
