"""The page of a benchmark's result: its words and tables, where it comes from, and no more."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_page import Rows

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.depth_benchmarks import METRICS, markdown
from worldmodel.evaluation.page import benchmark_names, write_benchmark_page


def scores(value: float) -> dict[str, Any]:
    own = dict.fromkeys(METRICS, value)
    return own | {part: dict(own) for part in ("pooled", "median", "affine_disparity")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `evaluate --benchmark nyuv2` leaves, with scores that are made up."""
    report = {
        "benchmark": "nyuv2",
        "checkpoint_sha256": "ab" * 32,
        "global_step": 1600,
        "clip": {"fps": 8.0, "num_frames": 32, "size": 64},
        "source": "pictures <b>of</b> rooms",
        "absent": [],
        "num_test_images": 654,
        "num_test_published": 654,
        "num_train_images": 600,
        "num_train_available": 795,
        "num_held_out_images": 100,
        "whole_test_split": True,
        "ci95_rmse_m": [0.9, 1.1],
        **scores(0.987),
        "null": {"untrained": scores(1.234), "mean": scores(1.345)},
    }
    (tmp_path / "nyuv2.json").write_text(json.dumps(report))
    (tmp_path / "nyuv2.md").write_text(markdown(report))
    return tmp_path


def test_every_table_of_the_text_stands_on_the_page(folder: Path) -> None:
    page = Rows(write_benchmark_page(folder, "nyuv2").read_text(encoding="utf-8"))
    text = (folder / "nyuv2.md").read_text(encoding="utf-8")
    tables = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)
    ]
    assert len(tables) == 4 * (1 + 3)
    assert [row for row in tables if row not in page.rows] == []
    headings = ["nyuv2: depth from single pictures", "Result", "pooled", "median"]
    assert page.headings == [*headings, "affine_disparity", "Protocol", "Provenance"]
    words = " ".join(page.text.split())
    assert "654 test pictures (654 in published results), 600 of 795" in words
    assert "pictures <b>of</b> rooms" in words  # a text from elsewhere stays text


def test_provenance_says_how_it_was_measured_and_holds_no_score(folder: Path) -> None:
    page = Rows(write_benchmark_page(folder, "nyuv2").read_text(encoding="utf-8"))
    start = page.rows.index(["benchmark", "nyuv2"])
    rows = page.rows[start:]
    assert ["checkpoint sha256", "ab" * 32] in rows and ["clip fps", "8.0"] in rows
    assert ["whole test split", "yes"] in rows
    assert not any("0.987" in cell or "absent" in cell for row in rows for cell in row)


def test_the_page_is_one_file_that_runs_and_fetches_nothing(folder: Path) -> None:
    page = write_benchmark_page(folder, "nyuv2").read_text(encoding="utf-8")
    assert not re.search(r"(src|href|poster|url)\s*[=(]\s*[\"']?(https?:|//|file:)", page)
    assert "<script" not in page and "default-src 'none'" in page
    assert len(page) < 100_000


def test_page_makes_it_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / "nyuv2.html")]
    before = (folder / "nyuv2.html").read_bytes()
    assert main(["page", str(folder)]) == 0
    assert (folder / "nyuv2.html").read_bytes() == before
    (folder / "report.json").write_text("{}")
    (folder / "report.md").write_text("# report\n")
    assert benchmark_names(folder) == ["nyuv2"]
    assert main(["page", str(folder)]) == 0
    assert (folder / "report.html").is_file()


def test_what_is_no_result_is_said(folder: Path) -> None:
    (folder / "nyuv2.md").rename(folder / "kitti.md")
    (folder / "kitti.json").write_text((folder / "nyuv2.json").read_text())
    with pytest.raises(InputError, match="no result of the benchmark kitti"):
        write_benchmark_page(folder, "kitti")
    with pytest.raises(InputError, match=r"nyuv2\.md cannot be read"):
        write_benchmark_page(folder, "nyuv2")
    with pytest.raises(InputError, match=r"ssv2\.json cannot be read; `worldmodel evaluate"):
        write_benchmark_page(folder, "ssv2")
