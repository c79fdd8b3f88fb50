"""Reports and runs say what they were made with."""

import re
import subprocess

import pytest

from worldmodel.environment import describe_environment, git_commit, package_version


def test_commit_is_that_of_the_source_tree_or_unknown() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", git_commit())


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert git_commit() == "unknown"


def test_a_package_that_is_not_installed_is_missing() -> None:
    assert package_version("no-such-package-as-this") == "missing"
    assert package_version("torch")[0].isdigit()


def test_environment_names_code_packages_and_hardware() -> None:
    found = describe_environment()
    assert found["packages"]["torch"] == package_version("torch")
    assert found["hardware"]["cpu"] and found["hardware"]["cores"] >= 1
