"""The parts of a task and a trainer that callbacks see."""

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer

# The world of squares, whose clips and blocks cost no renderer.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))


@pytest.fixture
def module(hierarchy) -> Mock:
    """The part of a task that callbacks see; remembers what was logged."""
    module = Mock(spec=LightningModule)
    module.hierarchy, module.logged = hierarchy, {}
    module.device = torch.device("cpu")
    module.log_dict = lambda values, **_: module.logged.update(values)
    module.log = lambda name, value, **_: module.logged.update({name: value})
    return module


@pytest.fixture
def trainer_at(module):
    """A trainer at a step of a run of 100."""

    def at(step: int) -> Mock:
        trainer = Mock(spec=Trainer)
        trainer.global_step, trainer.estimated_stepping_batches = step, 100
        trainer.callback_metrics, trainer.loggers = module.logged, []
        return trainer

    return at
