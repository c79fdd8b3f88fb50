import pytest
import torch

from worldmodel.callbacks import LevelMonitor


def outputs(hierarchy, tokens=None) -> dict:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 12, 16, 16), (4, 6, 4, 16), (4, 3, 1, 16)]
    tokens = tokens or [torch.randn(shape, generator=generator) for shape in shapes]
    predicted = [
        {h: level_tokens for h in level.horizons}
        for level, level_tokens in zip(hierarchy.levels, tokens, strict=True)
    ]
    return {"targets": tokens, "predicted": predicted}


def test_monitor__copying_has_copy_ratio_one_and_no_skill(module, trainer_at):
    monitor = LevelMonitor(every_n_steps=1)
    monitor.setup(trainer_at(0), module, "fit")
    monitor.on_train_batch_end(trainer_at(1), module, outputs(module.hierarchy), None, 0)
    for level in range(3):
        assert module.logged[f"train/level{level}/copy_ratio"] == pytest.approx(1.0)
        # The best trivial predictor of noise is its mean, far better than a copy.
        assert module.logged[f"train/level{level}/skill_ratio"] > 1.3
    assert module.logged["train/level0/effective_rank"] > 14


def test_monitor__looks_only_every_n_steps(module, trainer_at):
    monitor = LevelMonitor(every_n_steps=10)
    monitor.setup(trainer_at(0), module, "fit")
    monitor.on_train_batch_end(trainer_at(9), module, outputs(module.hierarchy), None, 0)
    assert module.logged == {}


def test_monitor__looks_once_at_a_step_of_several_batches(module, trainer_at, monkeypatch):
    looks = []
    monkeypatch.setattr(LevelMonitor, "_follow", lambda self, tokens: looks.append(tokens))
    monitor = LevelMonitor(every_n_steps=2)
    monitor.setup(trainer_at(4), module, "fit")
    monitor.on_train_start(trainer_at(4), module)  # of a run that goes on
    batch = outputs(module.hierarchy)
    for step in (4, 4, 5, 5, 5, 6, 6, 6, 7):
        monitor.on_train_batch_end(trainer_at(step), module, batch, None, 0)
    assert len(looks) == 1


def test_monitor__a_large_batch_costs_no_more_than_its_first_clips(module, trainer_at):
    generator = torch.Generator().manual_seed(1)
    shapes = [(20, 12, 16, 16), (20, 6, 4, 16), (20, 3, 1, 16)]
    tokens = [torch.randn(shape, generator=generator) for shape in shapes]
    logged = []
    for taken in (None, LevelMonitor.CLIPS, LevelMonitor.CLIPS - 1):
        monitor = LevelMonitor(every_n_steps=1)
        monitor.setup(trainer_at(0), module, "fit")
        batch = outputs(module.hierarchy, [level[:taken] for level in tokens])
        monitor.on_train_batch_end(trainer_at(1), module, batch, None, 0)
        logged.append(dict(module.logged))
    assert logged[0] == logged[1] != logged[2]


@pytest.mark.parametrize("case", ["no numbers", "no clips"])
def test_monitor__tokens_that_say_nothing_leave_no_trace(module, trainer_at, case):
    monitor = LevelMonitor(every_n_steps=1)
    monitor.setup(trainer_at(0), module, "fit")
    bad = outputs(module.hierarchy)
    if case == "no numbers":
        bad["targets"][1][0, 0] = float("nan")
    else:
        bad = outputs(module.hierarchy, [level[:0] for level in bad["targets"]])
    monitor.on_train_batch_end(trainer_at(1), module, bad, None, 0)
    assert module.logged == {}
    monitor.on_train_batch_end(trainer_at(2), module, outputs(module.hierarchy), None, 0)
    assert module.logged["train/level1/copy_ratio"] == pytest.approx(1.0)


def test_monitor__says_in_words_that_a_level_collapsed_and_says_it_once(module, capsys, trainer_at):
    monitor = LevelMonitor(every_n_steps=1)
    monitor.setup(trainer_at(0), module, "fit")
    tokens = outputs(module.hierarchy)["targets"]
    tokens[1] = torch.ones_like(tokens[1])
    for step in (1, 2):
        batch = outputs(module.hierarchy, tokens)
        monitor.on_train_batch_end(trainer_at(step), module, batch, None, 0)
    said = capsys.readouterr().out
    assert said.count("level 1 has collapsed") == 1 and "1.0 of 16 directions" in said
    assert "level 0" not in said


def test_monitor__says_late_in_the_run_that_a_level_has_no_skill(module, capsys, trainer_at):
    monitor = LevelMonitor(every_n_steps=1, patience_share=0.5)
    monitor.setup(trainer_at(0), module, "fit")
    batch = outputs(module.hierarchy)
    monitor.on_train_batch_end(trainer_at(49), module, batch, None, 0)
    assert capsys.readouterr().out == ""
    monitor.on_train_batch_end(trainer_at(50), module, batch, None, 0)
    assert "level 2 predicts no better than a rule without a model" in capsys.readouterr().out


def test_monitor__validation_is_the_mean_over_levels(module, trainer_at):
    monitor = LevelMonitor()
    monitor.setup(trainer_at(0), module, "fit")
    monitor.on_validation_epoch_start(trainer_at(0), module)
    for batch in range(2):
        monitor.on_validation_batch_end(
            trainer_at(0), module, outputs(module.hierarchy), None, batch
        )
    monitor.on_validation_epoch_end(trainer_at(0), module)
    skills = [module.logged[f"val/level{level}/skill_ratio"] for level in range(3)]
    assert module.logged["val/skill_ratio"] == pytest.approx(sum(skills) / 3)


def test_monitor__state_survives_a_checkpoint(module, trainer_at):
    first, second = LevelMonitor(every_n_steps=1), LevelMonitor(every_n_steps=1)
    for monitor in (first, second):
        monitor.setup(trainer_at(0), module, "fit")
    first.on_train_batch_end(trainer_at(1), module, outputs(module.hierarchy), None, 0)
    second.load_state_dict(first.state_dict())
    for place, fit in first.fits.fits.items():
        assert torch.equal(fit.coefficients, second.fits.fits[place].coefficients)
