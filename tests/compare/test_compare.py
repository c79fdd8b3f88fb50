"""`worldmodel compare` as a person types it."""

import json
from pathlib import Path

import pytest
from made_up_reports import kind, report, write_run

from worldmodel.cli import main
from worldmodel.compare.figure import comparison_figure
from worldmodel.compare.run import compare_reports


def words_of(folder: Path) -> dict[str, str]:
    """What `compare.json` says of each number of the second configuration."""
    content = json.loads((folder / "compare.json").read_text())
    return {
        number["name"]: each["word"]
        for number in content["numbers"]
        for each in number["differences"].values()
    }


def error_of(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of a command that cannot be done."""
    assert main(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_compare__seeds_are_taken_together_and_others_are_compared(tmp_path, capsys) -> None:
    runs = tmp_path / "runs"
    seeds = [
        str(
            write_run(
                runs / f"plain{s}" / "version_0", s, report(visible=0.5 + s / 100, sha=f"p{s}")
            )
        )
        for s in range(3)
    ]
    other = write_run(
        runs / "heavy" / "version_0", 0, report(visible=0.9, sha="h"), weights={"batch": 20}
    )
    assert main(["compare", *seeds, str(other), "--out", str(tmp_path / "out")]) == 0
    page = capsys.readouterr().out
    assert "## heavy against plain0, 3 seeds" in page
    assert "- `method.weights.batch`: 10 → 20" in page and "seed_everything" not in page
    assert "0.51 (" in page and "[0.50 to 0.52]" in page and "they are about configurations" in page
    assert (tmp_path / "out" / "compare.md").read_text() in page
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
    assert words_of(tmp_path / "out")["position, visible, r2"] == "better"
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [run["seed"] for run in content["groups"][0]["runs"]] == [0, 1, 2]
    assert content["groups"][1]["settings_changed"] == {"method.weights.batch": [10, 20]}
    (visible,) = [each for each in content["numbers"] if each["name"] == "position, visible, r2"]
    score = visible["scores"]["plain0, 3 seeds"]
    assert score["seeds"] == [0.5, 0.51, 0.52] and score["deviation"] == pytest.approx(0.01)


def test_compare__seeds_of_one_configuration_alone_are_a_table(tmp_path, capsys) -> None:
    seeds = [
        str(write_run(tmp_path / "runs" / f"r{s}" / "version_0", s, report(sha=str(s))))
        for s in range(2)
    ]
    assert main(["compare", *seeds]) == 0
    page = capsys.readouterr().out
    assert "there is nothing to compare" in page and "[0.50 to 0.50]" in page
    assert "against" not in page


def test_compare__the_same_seed_twice_is_no_second_seed(tmp_path, capsys) -> None:
    run = str(write_run(tmp_path / "runs" / "r" / "version_0", 0, report()))
    assert main(["compare", run, run]) == 0
    page = capsys.readouterr().out
    assert "## r (2) against r" in page and "r (2) and r are the same weights" in page
    assert "No configuration has several seeds" in page


def test_compare__the_shipped_model_with_itself_differs_nowhere(tmp_path, capsys) -> None:
    assert main(["compare", "tiny", "tiny", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    content = json.loads((tmp_path / "compare.json").read_text())
    assert len(content["numbers"]) > 25
    found = [each["differences"]["tiny (2)"] for each in content["numbers"]]
    assert all(each["value"] == 0 and not each["holds"] for each in found)
    assert {each["word"] for each in found} == {"undecided", "no interval", ""}
    judged = [each for each in found if each["word"] == "undecided"]
    assert all(each["ci95"][0] <= 0 <= each["ci95"][1] for each in judged)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index_sha256": "other"}, "measured on another set"),
        ({"split": "val"}, "measured on the split val"),
        ({"num_blocks": 6}, "other numbers of samples than one (6 blocks, not 180)"),
    ],
)
def test_compare__unlike_data_are_shown_and_not_judged(tmp_path, capsys, change, said) -> None:
    other = report(visible=0.9, sha="b")
    other["meta"]["data"] |= change
    for name, content in (("one", report()), ("two", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / f"{name}.json") for name in ("one", "two")]
    assert main(["compare", *files, "--out", str(tmp_path / "out")]) == 0
    page = capsys.readouterr().out
    assert said in page and "not called better or worse" in page and "+0.40" in page
    assert set(words_of(tmp_path / "out").values()) == {"not judged", ""}


def test_compare__another_protocol_is_said_and_an_unknown_one_too(tmp_path, capsys) -> None:
    def compared(**meta: str) -> str:
        older = report(sha="b", **meta)
        if "protocol_sha256" not in meta:
            del older["meta"]["protocol_sha256"]
        for name, content in (("one", report()), ("two", older)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        assert main(["compare", str(tmp_path / "one.json"), str(tmp_path / "two.json")]) == 0
        return capsys.readouterr().out

    assert "measured by another protocol than one" in compared(protocol_sha256="older")
    page = compared(git_commit="decade")
    assert "two: an older report" in page and "0.1.0 decade" in page
    assert "older report" not in compared()  # the same code measured in the same way


def test_compare__what_is_missing_or_dead_is_said_and_the_rest_shown(tmp_path, capsys) -> None:
    poor = report(visible=0.9, rank=1 / 64, sha="b")
    poor["position"]["visible"] = {"absent": "too few frames"}
    del poor["depth"]
    for name, content in (("one", report()), ("two", poor)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert main(["compare", str(tmp_path / "one.json"), str(tmp_path / "two.json")]) == 0
    page = capsys.readouterr().out
    assert "two has no position, visible, r2: too few frames." in page
    assert "two has no depth, rmse m: not in its report." in page
    assert "two has collapsed at level0 (1.0 of 64 directions)" in page
    assert "| surprise, reveal, relative accuracy" in page
    assert "How two was trained is not known" in page


def test_compare__an_empty_run_is_said_and_the_others_are_compared(tmp_path, capsys) -> None:
    full = [str(write_run(tmp_path / f"r{n}", n, report(sha=str(n)))) for n in range(2)]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["compare", *full, str(empty)]) == 0
    assert "empty has no report, and no checkpoint" in capsys.readouterr().out
    (empty / "checkpoints").mkdir()
    (empty / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert "worldmodel evaluate --checkpoint" in error_of(capsys, full[0], str(empty))


def test_compare__errors_are_one_line(tmp_path, capsys) -> None:
    good = str(write_run(tmp_path / "runs" / "r" / "version_0", 0, report()))
    assert "at least two reports, got 1" in error_of(capsys, good)
    assert "there is no report at nowhere" in error_of(capsys, good, "nowhere")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    assert "cannot be read as JSON" in error_of(capsys, good, str(bad))
    bad.write_text("{}")
    assert "is no report of `worldmodel evaluate`" in error_of(capsys, good, str(bad))
    broken = report(sha="b")
    broken["depth"]["ci95_rmse_m"] = "wide"
    bad.write_text(json.dumps(broken))
    assert "is not as this version writes reports" in error_of(capsys, good, str(bad))
    several = error_of(capsys, good, str(tmp_path / "runs" / "r"))
    assert "holds several runs: give version_0 of it" in several
    out = tmp_path / "taken"
    out.write_text("")
    assert "cannot write" in error_of(capsys, good, good, "--out", str(out))


@pytest.mark.parametrize(
    ("section", "odd"),
    [
        ("meta", {"config": "tiny"}),
        ("meta", {"config": {"data": ["left out"]}}),
        ("meta", {"checkpoint_sha256": float("nan")}),
        ("collapse", {"level0": 3}),
    ],
)
def test_compare__an_odd_report_is_named(tmp_path, capsys, section, odd) -> None:
    good = str(write_run(tmp_path / "runs" / "r" / "version_0", 0, report()))
    content = report(sha="b")
    content[section] |= odd
    (tmp_path / "odd.json").write_text(json.dumps(content))
    line = error_of(capsys, good, str(tmp_path / "odd.json"), "--out", str(tmp_path / "out"))
    assert "odd.json is not as this version writes reports (" in line
    assert not (tmp_path / "out").exists()


def test_compare__a_report_without_sections_is_shown_with_what_there_is(tmp_path, capsys) -> None:
    good = str(write_run(tmp_path / "runs" / "r" / "version_0", 0, report()))
    (tmp_path / "bare.json").write_text(json.dumps({"meta": report(sha="b")["meta"]}))
    assert main(["compare", good, str(tmp_path / "bare.json"), "--out", str(tmp_path / "out")]) == 0
    assert "bare has no " in capsys.readouterr().out
    assert words_of(tmp_path / "out") == {}


def test_figure__has_a_row_for_each_number_and_points_to_the_better_side(tmp_path) -> None:
    runs = [
        report(),
        report(visible=0.8, depth=0.2, sha="b", reveal=kind([1.0] * 20)),
        report(visible=0.1, sha="c", reveal=kind([1.0] * 20)),
    ]
    files = []
    for number, content in enumerate(runs):
        files.append(str(tmp_path / f"run{number}.json"))
        Path(files[-1]).write_text(json.dumps(content))
    comparison = compare_reports(files)
    figure = comparison_figure(comparison)
    scores, better, worse = figure.axes
    names = [row.measure.name for row in comparison.rows]
    assert [label.get_text() for label in scores.get_yticklabels()] == names
    points = [line for line in scores.lines if line.get_gid() == "score"]
    assert len(points) == 3 * len(names)
    assert better.get_title(loc="left") == "run1 − run0"
    right = {
        names[int(line.get_ydata()[0])]: line.get_xdata()[0]
        for line in better.lines
        if line.get_gid() == "better"
    }
    # Less depth error points to the right as more r2 does.
    assert right.keys() >= {"depth, rmse m", "position, visible, r2"}
    assert all(x > 0 for x in right.values())
    left = [line.get_xdata()[0] for line in worse.lines if line.get_gid() == "worse"]
    assert len(left) == 1 and left[0] < 0
    assert "better" in better.get_xlabel() and scores.get_xlabel().startswith("score")
