"""Notebooks find the project and its data from any folder."""

from pathlib import Path

import pytest

from worldmodel.errors import InputError
from worldmodel.viewing.folders import find_physics, project_folder


@pytest.fixture
def below(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks" / "deep"
    folder.mkdir(parents=True)
    return folder


def test_the_project_is_found_from_any_folder_in_it(tmp_path: Path, below: Path) -> None:
    with pytest.raises(InputError, match=r"no configs/tiny.yaml .* clone of the repository"):
        project_folder(below)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").touch()
    assert project_folder(below) == tmp_path.resolve()


def test_the_set_is_found_from_any_folder_below(tmp_path: Path, below: Path) -> None:
    with pytest.raises(InputError, match=r"no data/physics/index.json .* `make data` makes"):
        find_physics(below)
    root = tmp_path / "data" / "physics"
    root.mkdir(parents=True)
    (root / "index.json").write_text("{}")
    assert find_physics(below) == root.resolve()
