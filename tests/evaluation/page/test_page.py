"""The page: all that the report says, from its folder alone, and what is missing in words."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation import pictures
from worldmodel.evaluation.measure import NO_PICTURES
from worldmodel.evaluation.page import page_html, write_page
from worldmodel.evaluation.page.words import CAPTIONS
from worldmodel.evaluation.section_tables import SECTIONS
from worldmodel.evaluation.surprise import BlockScores
from worldmodel.evaluation.tables import section_of


class Rows(HTMLParser):
    """Rows of all tables, headings, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.text = ""
        self._into: list[str] | None = None
        self._unseen = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = self.rows[-1]
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")
            self._into = self.headings
        elif tag in ("style", "script"):
            self._unseen = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h1", "h2", "h3"):
            self._into = None
        elif tag in ("style", "script"):
            self._unseen = False

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data.strip()
        if not self._unseen:
            self.text += data


def text_of(folder: Path) -> str:
    """Words of the page that is made of a folder, one space apart."""
    page = write_page(folder).read_text(encoding="utf-8")
    return " ".join(Rows(page).text.split())


def change(folder: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Change a folder's report.json."""
    path = folder / "report.json"
    report = json.loads(path.read_text())
    spoil(report)
    path.write_text(json.dumps(report))


def test_every_table_of_the_text_stands_on_the_page(evaluated: Path) -> None:
    page = Rows((evaluated / "report.html").read_text(encoding="utf-8"))
    tables = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (evaluated / "report.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)
    ]
    assert len(tables) > 100
    assert [row for row in tables if row not in page.rows] == []


def test_every_section_has_its_heading(evaluated: Path) -> None:
    page = Rows((evaluated / "report.html").read_text(encoding="utf-8"))
    wanted = {title for title, _, _ in SECTIONS}
    wanted |= {"Report card", "At a glance", "Protocol", "Configuration", "Provenance"}
    assert wanted <= set(page.headings)
    assert {"object permanence", "reveal", "permanence"} <= set(page.headings)


def test_configuration_and_provenance_are_whole(evaluated: Path) -> None:
    page = Rows((evaluated / "report.html").read_text(encoding="utf-8"))
    meta = json.loads((evaluated / "report.json").read_text())["meta"]
    assert ["checkpoint sha256", meta["checkpoint_sha256"]] in page.rows
    assert ["data index sha256", meta["data"]["index_sha256"]] in page.rows
    assert ["git commit", meta["git_commit"]] in page.rows
    assert ["seed", "0"] in page.rows
    assert ["packages torch", meta["packages"]["torch"]] in page.rows
    assert ["data reference hash equal", "no"] in page.rows
    assert "stem_channels:" in page.text


def test_the_page_made_again_is_the_same_and_changes_nothing_else(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["page", str(folder)]) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_page_names_no_address_and_is_small(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href|poster|url)\s*[=(]\s*[\"']?(https?:|//|file:)", page)
    assert len(page) < 2_000_000


@pytest.mark.parametrize("kind", ["empty", "missing", "a file"])
def test_a_folder_without_a_report_is_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    if kind == "empty":
        folder.mkdir()
    elif kind == "a file":
        folder.write_text("")
    assert main(["page", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"worldmodel: error: no report.json in {folder}: `worldmodel evaluate")
    assert error.count("\n") == 1
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is no JSON"), ("[1]", "holds a list, no report")]
)
def test_a_report_that_is_none_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=says):
        write_page(tmp_path)


def test_an_empty_report_says_everything_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    text = text_of(tmp_path)
    assert "does not say which checkpoint, code and set it is of" in text
    assert text.count("This report has no such section.") == len(SECTIONS)
    assert "no section camera_motion in the report" in text
    assert "This report holds no configuration." in text
    assert "No clips to watch: there is no clips/clips.json" in text


@pytest.mark.parametrize("path", [path for _, path, _ in SECTIONS])
def test_without_any_one_section_all_others_stand(path: str, folder: Path) -> None:
    first, *rest = path.split(".")

    def drop(report: dict[str, Any]) -> None:
        holder = report[first] if rest else report
        holder.pop(rest[0] if rest else first, None)

    before = (folder / "report.html").read_text(encoding="utf-8").count("has no such section")
    before -= section_of(json.loads((folder / "report.json").read_text()), path) is None
    change(folder, drop)
    page = write_page(folder).read_text(encoding="utf-8")
    assert {title for title, _, _ in SECTIONS} <= set(Rows(page).headings)
    # Nothing else is lost with it.
    own = len([each for _, each, _ in SECTIONS if each.split(".")[0] == path])
    assert page.count("This report has no such section.") == max(own, 1) + before


def test_an_absent_section_gives_its_reason(folder: Path) -> None:
    def spoil(report: dict[str, Any]) -> None:
        report["surprise"] = {"absent": "the model predicts nothing <b>within</b> its clips"}
        report["depth"] = {"absent": "not probed"}

    change(folder, spoil)
    text = text_of(folder)
    assert "Absent: the model predicts nothing <b>within</b> its clips." in text
    assert "Absent: not probed." in text
    # What a report says is text and never markup.
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page


def test_a_section_of_another_version_is_said_to_be_one(folder: Path) -> None:
    change(folder, lambda report: report["velocity"].pop("ci95_r2"))
    text = text_of(folder)
    assert "lacks what a report of this version has here (KeyError: 'ci95_r2')" in text
    assert "Motion of the camera" in text


def test_a_collapsed_run_is_called_one(folder: Path) -> None:
    def spoil(report: dict[str, Any]) -> None:
        report["collapse"]["level1"] |= {"effective_rank": 1.2, "rank_fraction": 1.2 / 16}
        for horizon in report["prediction"]["level0"].values():
            horizon["skill_ratio"] = 1.25
        for horizon in report["prediction"]["level1"].values():
            horizon["skill_ratio"] = 0.5

    change(folder, spoil)
    text = text_of(folder)
    assert "Level 1 has collapsed: its tokens use 1.2 of 16 directions." in text
    assert "Level 0 predicts no better than a rule without a model at any horizon" in text
    assert "at best 1.25 of the best trivial predictor's" in text
    assert "Level 1 predicts no better" not in text


def test_a_healthy_run_is_not_warned_of(folder: Path) -> None:
    def heal(report: dict[str, Any]) -> None:
        for level in report["collapse"].values():
            level |= {"effective_rank": 8.0, "rank_fraction": 0.5}
        for level in report["prediction"].values():
            for horizon in level.values():
                horizon["skill_ratio"] = 0.9

    change(folder, heal)
    assert "Warning." not in text_of(folder)


def test_figures_that_are_gone_or_broken_are_named(folder: Path) -> None:
    (folder / "figures" / "depth_strip.png").unlink()
    (folder / "figures" / "surprise_kinds.png").write_bytes(b"no picture")
    text = text_of(folder)
    assert "There is no figures/depth_strip.png in the report's folder." in text
    assert "figures/surprise_kinds.png is no PNG that can be read." in text


def test_without_any_figures_the_rest_is_there(folder: Path) -> None:
    for path in (folder / "figures").iterdir():
        path.unlink()
    (folder / "figures").rmdir()
    text = text_of(folder)
    assert text.count("in the report's folder.") >= len(CAPTIONS)
    assert "<img" not in (folder / "report.html").read_text()


def test_a_figure_that_no_section_knows_is_shown_all_the_same(folder: Path) -> None:
    known = folder / "figures" / "surprise_kinds.png"
    (folder / "figures" / "something_new.png").write_bytes(known.read_bytes())
    page = page_html(json.loads((folder / "report.json").read_text()), folder)
    assert "More figures" in page
    assert 'alt="Figure: something new"' in page


@pytest.mark.parametrize("card", [None, {}, {"concepts": 3}, {"concepts": [1]}])
def test_a_report_without_a_card_gets_one(card: object, folder: Path, evaluated: Path) -> None:
    change(folder, lambda report: report.update(card=card))
    write_page(folder)
    pages = [Rows((each / "report.html").read_text()) for each in (folder, evaluated)]
    assert pages[0].headings == pages[1].headings


def test_other_models_stand_beside(folder: Path) -> None:
    def add(report: dict[str, Any]) -> None:
        report["beside"] = {"another": {name: report[name] for name in ("depth", "surprise")}}

    change(folder, add)
    write_page(folder)
    page = Rows((folder / "report.html").read_text())
    assert "Beside other models" in page.headings
    assert ["on the same clips", "this model", "another"] in page.rows


def test_evaluating_again_leaves_no_figure_of_another_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads((folder / "report.json").read_text())
    monkeypatch.setattr(pictures.figures, "depth_strip", lambda *each: None)
    scores = BlockScores([], np.zeros(0, "U1"), {})
    nothing = pictures.Shown(NO_PICTURES, [], [], scores, None, (1, 2), 8.0)
    before = {path.stem for path in (folder / "figures").glob("*.png")}
    gone = {"depth_strip", "hidden_position", "surprise_block", "loss_curves"}
    assert gone <= before
    pictures.write_pictures(folder / "figures", report, nothing, folder / "none.csv")
    assert {path.stem for path in (folder / "figures").glob("*.png")} == before - gone
