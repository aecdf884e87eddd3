"""Personas: files of the original."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.characters.errors import CharacterExists, InvalidCharacter, PersonaNotFound
from modules.characters.personas import Persona, Personas


def test_a_persona_of_the_original_is_read_and_saved_with_its_other_keys(tmp_path: Path) -> None:
    (tmp_path / "me.yaml").write_text("# hello\nname: Ann\nuser_bio: A pilot.\npronouns: she\n", encoding="utf-8")
    personas = Personas(tmp_path)
    assert personas.read("me") == Persona("me", "Ann", "A pilot.")
    personas.save(Persona("me", "Anne", "A pilot.\nBrave."))
    assert personas.read("me") == Persona("me", "Anne", "A pilot.\nBrave.")
    text = (tmp_path / "me.yaml").read_text(encoding="utf-8")
    assert "# hello" in text and "pronouns: she" in text


def test_new_personas_get_ids_that_no_file_has(tmp_path: Path) -> None:
    personas = Personas(tmp_path / "users")
    ids = [personas.save(Persona("", name)).id for name in ("Ann", "ann", "../x", "...", "CON")]
    assert ids == ["Ann", "ann 2", "x", "character", "CON_"]
    assert [listed.persona.id for listed in personas.list()] == ["Ann", "ann 2", "character", "CON_", "x"]


def test_a_deleted_persona_can_be_brought_back(tmp_path: Path) -> None:
    personas = Personas(tmp_path)
    personas.save(Persona("", "Ann", "first"))
    personas.delete("Ann")
    with pytest.raises(PersonaNotFound):
        personas.read("Ann")
    personas.save(Persona("", "Ann", "second"))
    with pytest.raises(CharacterExists):
        personas.restore("Ann")
    personas.delete("Ann")
    personas.restore("Ann")
    assert personas.read("Ann").bio == "second"
    with pytest.raises(PersonaNotFound):
        personas.restore("nobody")


def test_a_damaged_file_is_listed_with_its_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: [", encoding="utf-8")
    (listed,) = Personas(tmp_path).list()
    assert listed.persona.id == "a" and listed.problem is not None and "line" in listed.problem["en"]
    with pytest.raises(InvalidCharacter):
        Personas(tmp_path).read("a")
    Personas(tmp_path).save(Persona("a", "Ann"))
    assert (tmp_path / "a.yaml.broken-1").read_text(encoding="utf-8") == "name: ["
    (tmp_path / "b.yaml").symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    with pytest.raises(InvalidCharacter, match=r"b\.yaml"):
        Personas(tmp_path).save(Persona("b", "Bo"))


def test_ids_do_not_lead_out_of_the_folder(tmp_path: Path, subtests: pytest.Subtests) -> None:
    (tmp_path / "secret.yaml").write_text("name: x", encoding="utf-8")
    personas = Personas(tmp_path / "users")
    (tmp_path / "users").mkdir()
    for id in ("../secret", "", ".", "..", "a/b", "\0", ".hidden", "x" * 300):
        with subtests.test(id[:10]), pytest.raises(PersonaNotFound):
            personas.read(id)
