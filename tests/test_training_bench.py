"""The benchmark of training: its arithmetic, and one whole run of it."""

from pathlib import Path

import pytest

from worldmodel import training_bench
from worldmodel.errors import InputError
from worldmodel.training_bench import TrainBench, bench_table, bench_train

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")
SPEEDS = {"bare": 4.0, "memory": 3.9, "stream": 3.0, "workers": 3.6, "compiled": 5.0}


def test_bench__ratios_are_of_medians(monkeypatch, shards):
    turns = iter(range(100))

    def run(name, options, shards, runs):
        found = {"steps_per_second": SPEEDS[name] * (1, 1, 7)[next(turns) // 5 % 3]}
        return found | ({"data_wait_share": 0.1} if name in ("stream", "workers") else {})

    monkeypatch.setattr(training_bench, "_run", run)
    monkeypatch.setattr(
        training_bench,
        "_scaling",
        lambda *_: ({"steps_per_second": 1.8}, {"steps_per_second": 2.0}),
    )
    monkeypatch.setattr(training_bench.torch, "get_num_threads", lambda: 2)
    pairs = iter([(2.0, 1.9), (1.0, 0.98), (3.0, 1.5)])

    def beside(*_):
        names = ("bare_beside", "memory_beside")
        return {
            name: {"steps_per_second": each} for name, each in zip(names, next(pairs), strict=True)
        }

    monkeypatch.setattr(training_bench, "_beside", beside)
    report = bench_train(TrainBench(config=SMALL, shards=str(shards), rounds=3, compiled=True))
    assert report["subjects"]["stream"] == {
        "steps_per_second": 3.0,
        "least": 3.0,
        "most": 21.0,
        "data_wait_share": 0.1,
    }
    assert report["ratios"] == pytest.approx(
        {
            "trainer_overhead": 0.05,  # of the pair in the middle
            "trainer_overhead_alone": 0.025,
            "stream": 3 / 3.9,
            "fit": 0.75,
            "ddp": 0.9,
            "compiled": 1.25,
        }
    )
    assert report["step"]["subject"] == "memory"
    assert report["step"]["frames_per_second"] == pytest.approx(3.9 * 2 * 12)
    assert "mfu" not in report["step"]  # of a CPU the peak is not known
    table = bench_table(report)
    assert "| worldmodel fit, the stream as configured | 3.00 | 3.00 to 21.00 | 10.0% |" in table
    assert (
        "from memory 0.95 of the bare loop's speed (one after the other, with all threads, 0.97)"
        in table
        and "compiled 1.25 times as fast" in table
    )


def test_bench__only_the_subjects_asked_for(monkeypatch, shards):
    asked = []

    def run(name, *_):
        asked.append(name)
        return {"steps_per_second": SPEEDS[name]}

    monkeypatch.setattr(training_bench, "_run", run)
    monkeypatch.setattr(training_bench, "peak_of", lambda device, precision: 1e9)
    report = bench_train(
        TrainBench(config=SMALL, shards=str(shards), rounds=1, subjects=["stream", "bare"])
    )
    assert asked == ["bare", "stream"]
    assert report["ratios"] == {"fit": 0.75}
    step = report["step"]
    assert step["subject"] == "stream"
    assert step["mfu"] == pytest.approx(3 * step["gflop"])
    table = bench_table(report)
    assert "worldmodel fit with the stream 0.75 of the bare loop's speed" in table
    assert f"{step['mfu']:.2f} of the GPU's peak" in table
    assert "not connected" not in table


def test_bench__a_step_without_a_run_of_it(monkeypatch, shards):
    turn = {"steps_per_second": 1.0}
    monkeypatch.setattr(training_bench, "_scaling", lambda *_: (turn, turn))
    report = bench_train(TrainBench(config=SMALL, shards=str(shards), rounds=1, subjects=["ddp"]))
    assert report["ratios"] == {"ddp": 1.0}
    assert list(report["step"]) == ["gflop"]
    assert "a step:" not in bench_table(report)


@pytest.mark.slow
def test_bench__measures_real_runs(shards):
    report = bench_train(TrainBench(config=SMALL, shards=f"{shards}/*.tar", rounds=1, steps=10))
    alone = {"bare", "memory", "stream", "workers", "ddp", "apart"}
    assert set(report["subjects"]) - {"bare_beside", "memory_beside"} == alone
    assert all(each["steps_per_second"] > 0 for each in report["subjects"].values())
    assert 0 < report["subjects"]["stream"]["data_wait_share"] < 1


def test_bench__says_what_is_wrong(shards, tmp_path):
    with pytest.raises(InputError, match="at least 10 steps and one round"):
        TrainBench(steps=5)
    with pytest.raises(InputError, match="no subject loader; there are bare, memory"):
        TrainBench(subjects=["loader"])
    with pytest.raises(InputError, match=r"cannot read .*none\.yaml"):
        bench_train(TrainBench(config=str(tmp_path / "none.yaml")))
    with pytest.raises(InputError, match=r"a run of the benchmark failed: .*no such"):
        bench_train(TrainBench(config=SMALL, shards=str(tmp_path / "no such")))
