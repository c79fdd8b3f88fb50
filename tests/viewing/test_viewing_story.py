"""The pictures of the README are drawn of whatever model and set there are."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from square_world import write_squares
from squares_model import write_model

from worldmodel.models.checkpoint import load_model
from worldmodel.viewing import story


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 6, "val": 4, "test": 8}, {"val": 3, "test": 3})
    model = load_model(write_model(root / "last.ckpt"))
    return dict(story.draw(model, root))


def test_a_token_is_followed_in_the_model_beside_what_knows_nothing(
    pictures: dict[str, Figure],
) -> None:
    labels = [axes.get_ylabel() for axes in pictures["token_through_time"].axes]
    assert [label for label in labels if label][:4] == ["frames", "model", "untrained", "pixels"]


def test_a_blocks_surprise_is_shown_at_every_place(pictures: dict[str, Figure]) -> None:
    titles = [axes.get_title() for axes in pictures["surprise_of_a_block"].axes]
    assert sum(title.startswith("level") for title in titles) == 5


def test_pictures_are_written_into_the_project(
    pictures: dict[str, Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "project_folder", lambda: tmp_path)
    monkeypatch.setattr(story, "find_physics", lambda: tmp_path)
    monkeypatch.setattr(story, "load_model", lambda name: None)
    monkeypatch.setattr(story, "draw", lambda model, root: iter(pictures.items()))
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    story.main()
    written = sorted(path.name for path in (tmp_path / "docs" / "figures").iterdir())
    assert written == ["surprise_of_a_block.png", "token_through_time.png"]
