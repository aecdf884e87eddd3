"""The record of remote code that the user has allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config.trusted_code import TrustedCode
from modules.core.errors import CodeChanged, SettingsError


@pytest.fixture
def trusted(tmp_path: Path) -> TrustedCode:
    return TrustedCode(tmp_path)


def test_the_first_check_allows_all_files_and_later_ones_refuse_new_or_changed_files(trusted: TrustedCode) -> None:
    trusted.check("on", {"a.py": "12", "b.py": "1e3"})
    trusted.check("on", {"a.py": "12"})  # deleted files cannot run
    with pytest.raises(CodeChanged) as refused:
        trusted.check("on", {"a.py": "13", "b.py": "1e3", "c.py": "ff"})
    assert refused.value.changes == {"a.py": "changed", "c.py": "added"}
    trusted.check("another model", {"a.py": "13"})
    trusted.agree("on", {"a.py": "13"})
    trusted.check("on", {"a.py": "13"})
    with pytest.raises(CodeChanged, match=r"b\.py"):
        trusted.check("on", {"a.py": "13", "b.py": "1e3"})


def test_code_added_to_a_model_without_code_needs_consent(trusted: TrustedCode) -> None:
    trusted.check("m", {})
    with pytest.raises(CodeChanged, match="added"):
        trusted.check("m", {"a.py": "12"})


def test_an_invalid_entry_allows_nothing(trusted: TrustedCode, tmp_path: Path) -> None:
    (tmp_path / ".trusted.yaml").write_text("m: everything\n")
    with pytest.raises(CodeChanged):
        trusted.check("m", {"a.py": "12"})
    (tmp_path / ".trusted.yaml").write_text("m: [\n")
    with pytest.raises(SettingsError, match="line 2"):
        trusted.check("m", {"a.py": "12"})


def test_the_refusal_names_the_files_in_both_languages() -> None:
    error = CodeChanged("m", {"a.py": "changed"}, {"a.py": "0123456789abcdef", "b.py": "00"})
    assert "a.py (changed, sha256 0123456789ab)" in error.say("en") and "b.py" not in error.say("en")
    assert "a.py (已更改, sha256 0123456789ab)" in error.say("zh")
