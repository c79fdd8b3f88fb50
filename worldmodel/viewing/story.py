"""The pictures of README.md that are drawn from a trained model: `make figures`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from worldmodel.evaluation.footage import find_samples, read_samples
from worldmodel.evaluation.measure import evenly
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.viewing import permanence, readings, tokens
from worldmodel.viewing.canvas import small_png
from worldmodel.viewing.folders import find_physics, project_folder

# Of the test split; as many as notebook 02 looks at, so that its picture is this one.
NUM_CLIPS = 120


def main(name: str = "small") -> None:
    """Draw them for a shipped model or a checkpoint, into `docs/figures/`."""
    folder = project_folder() / "docs" / "figures"
    for title, figure in draw(load_model(name), find_physics()):
        path = folder / f"{title}.png"
        path.write_bytes(small_png(figure))
        print(path.relative_to(folder.parents[1]))


def draw(model: LoadedModel, root: Path) -> Iterator[tuple[str, Figure]]:
    """Each picture's name and figure.

    Args:
        model: whose tokens and surprise.
        root: a set of the physics world.
    """
    yield "token_through_time", token_through_time(model, root)
    judgement = permanence.judge_blocks(model, root, ("reveal",))
    block = permanence.clearest_block(root, "reveal", model.clip)
    yield "surprise_of_a_block", permanence.block_surprise(block, judgement)


def token_through_time(model: LoadedModel, root: Path) -> Figure:
    """How alike all tokens of a clip are to the one that shows the object, and pixels likewise."""
    refs = evenly(find_samples(root, "test", "clips"), NUM_CLIPS)
    clips = list(read_samples(refs, model.clip, blocks=False))
    level = next(iter(model.network.levels))
    patches = tokens.Patches.of(clips, level.grid, level.span)
    features = {
        "model": tokens.encode_clips(model.network, clips)[0].numpy(),
        "untrained": tokens.encode_clips(model.untrained(0), clips)[0].numpy(),
        "pixels": patches.pixels,
    }
    number, step, token = readings.most_travelled(clips, patches)
    maps = {
        name: readings.likeness(values[number], values.mean((0, 1, 2)), step, token)
        for name, values in features.items()
    }
    return readings.likeness_strip(clips[number], maps, patches, step, token)


if __name__ == "__main__":
    main(*sys.argv[1:])
