import torch

from worldmodel.callbacks import RunProgressBar


def test_progress_bar__shows_skill_and_rank_of_every_level(module, trainer_at):
    module.logged |= {"train/loss": torch.tensor(1.5)}
    for level in range(3):
        module.logged[f"train/level{level}/skill_ratio"] = torch.tensor(0.9)
        module.logged[f"train/level{level}/effective_rank"] = torch.tensor(40.2)
    shown = RunProgressBar().get_metrics(trainer_at(1), module)
    assert shown == {"loss": "1.500", **{f"L{i}": "skill 0.90 rank 40" for i in range(3)}}
