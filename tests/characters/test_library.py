"""The library of characters: list, save, delete, import and export."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pytest

from modules.characters import png
from modules.characters.character import Character
from modules.characters.errors import (
    CardNotExported,
    CardRefused,
    CharacterChanged,
    CharacterExists,
    CharacterNotFound,
    CharacterNotSaved,
    InvalidCharacter,
)
from modules.characters.library import MAX_FILE_BYTES, MAX_YAML_BYTES, CharacterLibrary
from modules.core.errors import BinNotEmptied
from tests.support.cards import CARDS, V1, V2, V3, png_file, text_chunk


@pytest.fixture
def library(tmp_path: Path) -> CharacterLibrary:
    return CharacterLibrary(tmp_path / "characters")


def test_import_and_export_give_an_equal_card(library: CharacterLibrary, subtests: pytest.Subtests) -> None:
    for name, card in CARDS.items():
        with subtests.test(f"{name} in JSON"):
            id = library.import_file("a.json", json.dumps(card).encode()).id
            assert json.loads(library.export(id, "json").data) == card
        with subtests.test(f"{name} in PNG"):
            id = library.import_file("a.png", png_file(text_chunk("chara", card))).id
            assert json.loads(library.export(id, "json").data) == card
            exported = library.export(id, "png").data
            assert png.read_card(exported)["data"]["first_mes"] == "Good morning, {{user}}."
            again = library.import_file("b.png", exported).id
            assert dataclasses.replace(library.read(again), card=None) == dataclasses.replace(
                library.read(id), id=again, card=None
            )
    id = library.import_file("a.png", png_file(text_chunk("ccv3", V3))).id
    assert png.read_card(library.export(id, "png").data) == V3


def test_an_edited_card_keeps_everything_else(library: CharacterLibrary) -> None:
    id = library.import_file("a.json", json.dumps(V3).encode()).id
    library.save(dataclasses.replace(library.read(id), greetings=("Hi",)))
    assert json.loads(library.export(id, "json").data) == {
        **V3,
        "data": {**V3["data"], "first_mes": "Hi", "alternate_greetings": []},
    }


def test_a_character_in_json_stays_in_json_with_everything_else(library: CharacterLibrary) -> None:
    path = library.folder / "card.json"
    library.folder.mkdir()
    path.write_text(json.dumps(V3), encoding="utf-8-sig")
    saved = library.save(dataclasses.replace(library.read("card"), greetings=("你好",)))
    assert saved.greetings == ("你好",) and [file.name for file in library.folder.glob("card.*")] == ["card.json"]
    changed = {**V3["data"], "first_mes": "你好", "alternate_greetings": []}
    assert json.loads(path.read_text(encoding="utf-8")) == {**V3, "data": changed}


def test_saving_loses_nothing_of_a_file_that_was_damaged_meanwhile(library: CharacterLibrary) -> None:
    library.folder.mkdir()
    damaged = {"a.yaml": "name: [", "b.json": '{"name": '}
    for name, text in damaged.items():
        (library.folder / name).write_text(text, encoding="utf-8")
    library.save(Character("a", "Bo"))
    assert (library.folder / "a.yaml.broken-1").read_text(encoding="utf-8") == damaged["a.yaml"]
    with pytest.raises(InvalidCharacter, match=r"b\.json"):
        library.save(Character("b", "Bo"))
    assert (library.folder / "b.json").read_text(encoding="utf-8") == damaged["b.json"]


def test_files_that_are_too_large_or_cannot_be_read_are_listed_with_the_reason(library: CharacterLibrary) -> None:
    library.folder.mkdir()
    (library.folder / "large.json").touch()
    os.truncate(library.folder / "large.json", MAX_YAML_BYTES + 1)
    (library.folder / "locked.json").symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    problems = {one.id: one.problem for one in library.list()}
    assert problems["large"] is not None and problems["large"]["en"] == "it has more than 4 MB"
    assert problems["locked"] is not None and "error" in problems["locked"]["en"]
    for id in problems:
        with pytest.raises(InvalidCharacter):
            library.read(id)
    (library.folder / "other.yaml").symlink_to("/proc/self/mem")
    with pytest.raises(InvalidCharacter, match=r"other\.yaml"):
        library.save(Character("other", "Bo"))


def test_the_original_reads_name_context_and_greeting_of_an_imported_card(library: CharacterLibrary) -> None:
    id = library.import_file("a.png", png_file(text_chunk("chara", V2))).id
    text = (library.folder / f"{id}.yaml").read_text(encoding="utf-8")
    assert text.startswith("name: Ada\ngreeting: Good morning, {{user}}.\ncontext: |-\n  Ada is a mathematician.")
    assert (library.folder / f"{id}.png").read_bytes() == png_file()


def test_files_that_are_no_characters_are_refused_with_the_reason(
    library: CharacterLibrary, subtests: pytest.Subtests
) -> None:
    cases = {
        "a.png": (png_file(), "no character card"),
        "a.json": (b'{"model": 1}', "none of the fields"),
        "b.json": (b"\xff\xfe{", "UTF-8|not JSON"),
        "a.webp": (b"RIFF....WEBP", "only PNG"),
        "deep.yaml": (b"name: x\na:\n  " + b"- " * 1_000_000, "nested"),
        "a.charx": (b"PK\x03\x04....", "archives"),
        "a.yaml": (b"name: [", "line"),
        "b.yaml": (b"a: &a {}\n<<: *a\nname: x", "merge keys"),
        "c.yaml": (b"model: x", "none of the fields"),
        "a.txt": (b"hello", "not JSON"),
        "big.json": (b" " * 20_000_001, "20 MB"),
    }
    for name, (data, reason) in cases.items():
        with subtests.test(name), pytest.raises(CardRefused, match=reason):
            library.import_file(name, data)
    assert library.list() == []
    assert [path.name for path in library.folder.iterdir()] == []


def test_yaml_of_the_original_is_imported_as_it_is(library: CharacterLibrary) -> None:
    data = b"# by me\nname: Bo\ngreeting: Hi\ncontext: c\n"
    assert library.import_file("Bo.yaml", data).id == "Bo"
    assert (library.folder / "Bo.yaml").read_bytes() == data
    assert library.import_file("Bo.yaml", data).id == "Bo 2"


def test_yaml_of_the_original_is_exported_with_the_examples_in_the_context(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo", "c", ("Hi", "Ho"), "<START>\nx"))
    assert library.export("Bo", "yaml").data == b"name: Bo\ngreeting: Hi\ncontext: |-\n  c\n\n  <START>\n  x\n"


def test_newer_cards_are_imported_with_a_warning(library: CharacterLibrary) -> None:
    (warning,) = library.import_file("a.json", json.dumps({**V3, "spec_version": "4.0"}).encode()).warnings
    assert "newer" in warning["en"]


def test_the_list_has_names_pictures_and_the_faults_of_damaged_files(library: CharacterLibrary) -> None:
    library.import_file("a.png", png_file(text_chunk("chara", V1)))
    library.save(Character("", "Bo", "A cook.\nGood."))
    (library.folder / "broken.yaml").write_text("name: [", encoding="utf-8")
    (library.folder / "card.json").write_text(json.dumps(V3), encoding="utf-8")
    (library.folder / "Bo.json").write_text("{}", encoding="utf-8")  # the YAML comes first
    (library.folder / "picture.png").write_bytes(png_file())
    listed = {one.id: one for one in library.list()}
    assert list(listed) == ["Ada", "Bo", "broken", "card"]
    assert listed["Bo"].line == "A cook. Good." and listed["Bo"].picture == ""
    assert listed["Ada"].picture and listed["card"].name == "Countess"
    problem = listed["broken"].problem
    assert problem is not None and "line 2" in problem["en"]
    with pytest.raises(InvalidCharacter):
        library.read("broken")


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names of files are Unicode there")
def test_files_whose_name_is_not_utf_8_are_left_out(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo"))
    (library.folder / os.fsdecode(b"\xff.yaml")).write_text("name: x", encoding="utf-8")
    assert [one.id for one in library.list()] == ["Bo"]
    with pytest.raises(CharacterNotFound):
        library.read("\udcff")


def test_the_list_notices_changes_by_other_programs(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo", "one"))
    assert library.list()[0].line == "one"
    (library.folder / "Bo.yaml").write_text("name: Bo\ncontext: another\n", encoding="utf-8")
    assert library.list()[0].line == "another"


def test_a_change_of_an_older_version_is_refused(library: CharacterLibrary) -> None:
    saved = library.save(Character("", "Bo", "one"))
    version = library.version("Bo")
    library.save(dataclasses.replace(saved, context="two"), version)
    with pytest.raises(CharacterChanged):
        library.save(dataclasses.replace(saved, context="three"), version)
    assert library.read("Bo").context == "two"


def test_a_character_whose_picture_another_program_holds_open_is_not_deleted_in_part(
    library: CharacterLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = library.import_file("a.png", png_file(text_chunk("chara", V2))).id
    files = sorted(path.name for path in library.folder.iterdir() if not path.name.startswith("."))
    assert len(files) == 2
    rename = os.rename

    def held_open(source: Path, target: Path) -> None:
        if str(source).endswith(files[1]):
            raise PermissionError(13, "used by another process")
        rename(source, target)

    monkeypatch.setattr(os, "rename", held_open)
    with pytest.raises(CharacterNotSaved, match="used by another process"):
        library.delete(id)
    assert sorted(path.name for path in library.folder.iterdir() if not path.name.startswith(".")) == files
    assert library.deleted() == {} and list((library.folder / ".trash").iterdir()) == []


def test_a_deleted_character_comes_back_with_its_picture(library: CharacterLibrary) -> None:
    id = library.import_file("a.png", png_file(text_chunk("chara", V2))).id
    library.delete(id)
    assert library.list() == [] and library.picture(id) is None
    with pytest.raises(CharacterNotFound):
        library.delete(id)
    library.restore(id)
    assert library.read(id).card == V2 and library.picture(id) is not None
    library.delete(id)
    library.save(Character("", id))
    with pytest.raises(CharacterExists):
        library.restore(id)


def test_the_bin_is_emptied_after_30_days(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo"))
    library.delete("Bo")
    library.empty_bin()
    library.restore("Bo")
    assert library.deleted() == {}
    library.delete("Bo")
    assert library.deleted() == {"Bo": time.strftime("%Y%m%d")}
    (deleted,) = (library.folder / ".trash").iterdir()
    past = time.strftime("%Y%m%d-%H%M%S", time.localtime(time.time() - 32 * 86400))
    os.rename(deleted, deleted.with_name(past))
    library.empty_bin()
    with pytest.raises(CharacterNotFound):
        library.restore("Bo")


def test_a_bin_that_cannot_be_emptied_is_reported(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo"))
    library.delete("Bo")
    (deleted,) = (library.folder / ".trash").iterdir()
    deleted.rename(library.folder / "elsewhere")
    deleted.write_text("no folder")
    with pytest.raises(BinNotEmptied):
        library.empty_bin(0)


def test_pictures_are_told_by_their_content(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo"))
    library.set_picture("Bo", b"\xff\xd8\xff\xe0....")
    library.set_picture("Bo", png_file())
    assert [path.name for path in library.folder.glob("Bo.[pj]*")] == ["Bo.png"]
    library.set_picture("Bo", b"RIFF\x04\0\0\0WEBP....")
    assert [path.name for path in library.folder.glob("Bo.[!y]*")] == ["Bo.webp"]
    library.set_picture("Bo", png_file())
    for data in (
        b"<svg>",
        b"",
        b"GIF89a",
        b"RIFF\x04\0\0\0WAVE....",
        png_file()[:-9],
        b"\xff\xd8\xff" + bytes(MAX_FILE_BYTES),
    ):
        with pytest.raises(CardRefused):
            library.set_picture("Bo", data)
    with pytest.raises(CharacterNotFound):
        library.set_picture("nobody", png_file())


def test_a_card_without_a_picture_gets_a_plain_one(library: CharacterLibrary) -> None:
    library.save(Character("", "Bo", "c"))
    exported = library.export("Bo", "png").data
    assert png.read_card(exported)["data"]["name"] == "Bo"
    library.set_picture("Bo", b"\xff\xd8\xff\xe0....")
    with pytest.raises(CardNotExported, match="JPG"):
        library.export("Bo", "png")
    with pytest.raises(CardNotExported, match="png, json, yaml"):
        library.export("Bo", "exe")


def test_a_picture_that_is_damaged_or_cannot_be_read_prevents_the_export_as_png_alone(
    library: CharacterLibrary,
) -> None:
    library.save(Character("", "Bo", "c"))
    picture = library.folder / "Bo.png"
    picture.write_bytes(png_file()[:-9])
    with pytest.raises(CardNotExported, match="Bo"):
        library.export("Bo", "png")
    picture.unlink()
    picture.symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    with pytest.raises(CardNotExported, match="error"):
        library.export("Bo", "png")
    assert json.loads(library.export("Bo", "json").data)["data"]["name"] == "Bo"


def test_a_disk_that_refuses_is_reported(tmp_path: Path) -> None:
    (tmp_path / "characters").write_text("a file", encoding="utf-8")
    with pytest.raises(CharacterNotSaved):
        CharacterLibrary(tmp_path / "characters").save(Character("", "Bo"))


def test_ids_do_not_lead_out_of_the_folder(library: CharacterLibrary, subtests: pytest.Subtests) -> None:
    library.folder.mkdir()
    (library.folder.parent / "secret.yaml").write_text("name: x", encoding="utf-8")
    for id in ("../secret", "", ".", "..", "a/b", "\0", ".trash"):
        with subtests.test(id), pytest.raises(CharacterNotFound):
            library.read(id)
        with subtests.test(id), pytest.raises(CharacterNotFound):
            library.restore(id)
