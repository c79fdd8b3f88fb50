"""Reports and runs say what they were made with."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

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


def top_level_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names - {"worldmodel"}


def test_what_every_module_imports_is_asked_for_by_name_and_pinned() -> None:
    """A package that only comes along with another one is gone when that one lets go of it."""
    root = Path(__file__).parents[1]
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")

    def named(lines: str) -> set[str]:
        found = (re.match(r"[\w.-]+", line) for line in lines.splitlines())
        return {match[0].lower().replace("_", "-") for match in found if match}

    required = named(settings["options"]["install_requires"])
    pinned = named((root / "constraints.txt").read_text(encoding="utf-8"))
    packages = packages_distributions()  # by what is imported, of what is installed
    for path in sorted((root / "worldmodel").rglob("*.py")):
        for name in top_level_imports(path) & packages.keys():
            come_from = {package.lower().replace("_", "-") for package in packages[name]}
            assert come_from & required, f"setup.cfg does not ask for {name} of {path.name}"
            assert come_from & pinned, f"constraints.txt does not pin {name} of {path.name}"
