"""The door to all benchmarks: what is asked for reaches the one that is meant."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks import run as room
from worldmodel.evaluation.benchmarks.options import BenchmarkOptions
from worldmodel.evaluation.benchmarks.run import chosen_place, run_benchmark
from worldmodel.models.checkpoint import load_model, shipped_folder

ROOMS = {
    "intphys": "evaluate_benchmark",
    "nyuv2": "evaluate_depth_benchmark",
    "ssv2": "evaluate_classification",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """What the benchmarks were called with, none of which is done."""
    calls: list[tuple[tuple, dict[str, Any]]] = []

    def stand_in(*given: Any, **named: Any) -> dict[str, Any]:
        calls.append((given, named))
        return {}

    for name in ROOMS.values():
        monkeypatch.setattr(room, name, stand_in)
    return calls


def num_untrained(call: tuple[tuple, dict[str, Any]]) -> int:
    given, named = call
    return named.get("num_untrained", given[-2])


@pytest.mark.parametrize(("name", "usual"), [("intphys", 3), ("nyuv2", 3), ("ssv2", 1)])
def test_no_untrained_network_is_none(asked, tmp_path: Path, name: str, usual: int) -> None:
    for number in (None, 0, 2):
        options = BenchmarkOptions(num_untrained=number)
        run_benchmark(name, tmp_path, "tiny", tmp_path / "out", options)
    assert [num_untrained(call) for call in asked] == [usual, 0, 2]


@pytest.mark.parametrize(
    ("option", "least"), [("num_untrained", 0), ("num_clips", 1), ("max_train", 1), ("max_test", 1)]
)
def test_options_out_of_range_are_one_line(tmp_path: Path, capsys, option: str, least: int) -> None:
    with pytest.raises(InputError, match=rf"options\.{option} must be at least {least}, got"):
        BenchmarkOptions(**{option: least - 1})
    given = ["--checkpoint", "tiny", "--out", str(tmp_path), "--benchmark", "ssv2"]
    given += ["--root", str(tmp_path), f"--options.{option}", str(least - 1)]
    assert main(["evaluate", *given]) == 2
    assert f"options.{option} must be at least {least}" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_to_is_said_before(asked, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file: "):
        run_benchmark("intphys", tmp_path, "tiny", tmp_path / "file", BenchmarkOptions())
    assert not asked


def test_the_place_is_that_of_the_report_in_an_export_or_a_run(asked, tmp_path: Path) -> None:
    report = json.loads((shipped_folder() / "tiny" / "report.json").read_text())
    peak = report["surprise"]["overall"]["peak"]
    run_benchmark("intphys", tmp_path, "tiny", tmp_path / "out", BenchmarkOptions())
    assert asked[0][0][4] == (peak["level"], peak["horizon"])
    checkpoint = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    assert chosen_place(checkpoint) is None
    peak |= {"level": 1, "horizon": 2}
    (tmp_path / "version_0" / "report").mkdir(parents=True)
    (tmp_path / "version_0" / "report" / "report.json").write_text(json.dumps(report))
    assert chosen_place(checkpoint) == (1, 2)
    bare = tmp_path / "bare"
    shutil.copytree(shipped_folder() / "tiny", bare, ignore=shutil.ignore_patterns("report.json"))
    assert chosen_place(load_model(bare).file) is None
