"""What docs/objectives.md shows can be typed."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from worldmodel.losses import baselines, prediction, regularizers
from worldmodel.losses.objective import LossWeights
from worldmodel.losses.prediction import PredictionLoss
from worldmodel.losses.regularizers import Regularizer
from worldmodel.task import WorldModelTask

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(text)["model"] for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


def choose(choices: dict) -> Namespace:
    """As the command line does: class paths and their arguments -> objects."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WorldModelTask, skip={"levels", "encoder"})
    return parser.instantiate_classes(parser.parse_object(choices))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example__trains_a_step(example, encoder_config, level_configs, clip):
    chosen = vars(choose(example))
    task = WorldModelTask(level_configs, encoder_config, **chosen)
    losses, _ = task.objective(clip)
    total = task.total(losses)
    total.backward()
    assert total.isfinite() and total > 0
    stem = task.hierarchy.levels[0].encoder.stem[0].weight
    assert stem.grad.isfinite().all() and stem.grad.abs().sum() > 0


def test_page__names_every_class():
    named = {
        choice["class_path"]
        for example in EXAMPLES
        for choice in example.values()
        if isinstance(choice, dict) and "class_path" in choice
    }
    named |= {
        part["class_path"]
        for example in EXAMPLES
        for choice, parts in (("regularizer", "regularizers"), ("prediction_loss", "losses"))
        for part in example.get(choice, {}).get("init_args", {}).get(parts, [])
    }
    for module, base in (
        (prediction, PredictionLoss),
        (baselines, PredictionLoss),
        (regularizers, Regularizer),
    ):
        own = [kind for kind in vars(module).values() if isinstance(kind, type)]
        own = [kind for kind in own if kind.__module__ == module.__name__ and kind is not base]
        for kind in own:
            if issubclass(kind, base):
                assert f"{module.__name__}.{kind.__name__}" in named
                assert f"`{module.__name__.split('.')[-1]}.{kind.__name__}`" in PAGE


def test_choice__short_names_and_whole_numbers():
    chosen = choose({"prediction_loss": {"class_path": "InfoNCE", "init_args": {"temperature": 1}}})
    assert chosen.prediction_loss.temperature == 1.0
    assert choose({"weights": {"batch": 3}}).weights == LossWeights(batch=3.0)


def test_choice__what_makes_no_sense_is_refused():
    with pytest.raises(ArgumentError, match="off_diagnal"):
        choose(
            {"prediction_loss": {"class_path": "BarlowTwins", "init_args": {"off_diagnal": 0.1}}}
        )
    with pytest.raises(Exception, match=r"weights\.per_step must be 0 or more, got -1"):
        choose({"weights": {"per_step": -1}})
