"""Speed is measured against the first version in the same run, or is said not to be."""

import json
from pathlib import Path

import pytest

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.world import bench


def test_without_the_projects_history_only_this_version_is_measured() -> None:
    report = bench.bench_generate(num_clips=3, sizes=(16,), reference="0" * 40)
    assert "first version not measured" in report["skipped"]
    found = report["sizes"]["16"]
    assert set(found) == {"ours"}
    assert found["ours"]["clips_per_core_second"] > 0.5
    assert 1 < found["ours"]["mb_per_1000_clips"] < 1000
    assert set(report["stages"]["16"]) == {"simulate", "render", "encode"}
    table = bench.bench_table(report)
    assert "not measured" in table and "| 16 |" in table


def test_ratio_is_that_of_the_two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two made-up versions: one takes half a second a clip, the other two seconds."""

    def measured(root: Path, size: int, first: int, count: int) -> dict[str, float]:
        return {"seconds": count * (0.5 if root.name == "ours" else 2.0), "bytes": 5000.0 * count}

    monkeypatch.setattr(bench, "_measure", measured)
    found = bench._compare({"ours": Path("ours"), "first": Path("first")}, 64, 9)
    assert found["ours"]["clips_per_core_second"] == pytest.approx(2)
    assert found["first"]["clips_per_core_second"] == pytest.approx(0.5)
    assert found["ratio"] == found["ratio_min"] == found["ratio_max"] == pytest.approx(4)
    assert found["ours"]["mb_per_1000_clips"] == pytest.approx(5)


def test_too_few_clips_and_code_that_fails_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_clips must be at least 3, got 2"):
        bench.bench_generate(num_clips=2)
    (tmp_path / "worldmodel" / "world").mkdir(parents=True)
    (tmp_path / "worldmodel" / "__init__.py").touch()
    (tmp_path / "worldmodel" / "world" / "__init__.py").touch()
    (tmp_path / "worldmodel" / "world" / "samples.py").write_text("raise ValueError('broken')")
    with pytest.raises(InputError, match="failed: ValueError: broken"):
        bench._measure(tmp_path, 16, 1, 1)


def test_the_command_writes_its_figures(tmp_path, monkeypatch, capsys) -> None:
    def figures(num_clips: int) -> dict:
        ours = {"clips_per_core_second": 10.0, "mb_per_1000_clips": 90.0}
        stages = {"simulate": 1.0, "render": 2.0, "encode": 3.0}
        return {"num_clips": num_clips, "sizes": {"64": {"ours": ours}}, "stages": {"64": stages}}

    monkeypatch.setattr(bench, "bench_generate", figures)
    out = tmp_path / "bench.json"
    assert main(["bench", "generate", "--num_clips", "6", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["num_clips"] == 6
    assert "| 64 | 10.00 |" in capsys.readouterr().out
    assert main(["bench", "nothing"]) == 2


@pytest.mark.parametrize("name", ["no/such.json", "."])
def test_a_file_that_cannot_be_written_is_named_before_the_work(
    tmp_path, monkeypatch, capsys, name
) -> None:
    monkeypatch.setattr(bench, "bench_generate", lambda num_clips: pytest.fail("it has begun"))
    assert main(["bench", "generate", "--out", str(tmp_path / name)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_measured_in_vain_leaves_no_empty_file(tmp_path, monkeypatch) -> None:
    def refuse(num_clips: int) -> dict:
        raise InputError("no")

    monkeypatch.setattr(bench, "bench_generate", refuse)
    (tmp_path / "old.json").write_text("{}")
    for name in ("old.json", "new.json"):
        assert main(["bench", "generate", "--out", str(tmp_path / name)]) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["{}"]
