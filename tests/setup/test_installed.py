"""Versions and licenses of what is installed, and the text of a bug report."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.setup.installed import Package, installed_packages, license_of, machine, report


def distribution(folder: Path, metadata: str) -> Distribution:
    info = folder / "made_up-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n{metadata}\n")
    (found,) = distributions(path=[str(folder)])
    return found


def test_a_license_is_named_by_expression_text_or_classifier(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (metadata, expected) in enumerate(
        (
            ("License-Expression: MIT OR Apache-2.0\nLicense: other", "MIT OR Apache-2.0"),
            ("License: BSD-3-Clause", "BSD-3-Clause"),
            ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
            (f"License: {'long ' * 30}\nClassifier: License :: OSI Approved", ""),
            ("", ""),
        )
    ):
        with subtests.test(metadata=metadata):
            assert license_of(distribution(tmp_path / str(number), metadata)) == expected


def test_the_packages_of_the_environment_are_listed_once_in_order() -> None:
    packages = installed_packages()[""]
    names = [package.name.lower().replace("-", "_") for package in packages]
    assert names == sorted(set(names)) and "gradio" in names
    assert all(package.version for package in packages)


def test_a_bug_report_has_the_facts_and_no_private_paths() -> None:
    text = report(machine(), {"": [Package("gradio", "6.0", "Apache-2.0"), Package("other", "1", "")]})
    assert "gradio 6.0" in text and "other" not in text and "python: 3." in text
    assert str(ROOT) not in text and str(Path.home()) not in text
