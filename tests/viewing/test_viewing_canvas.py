"""Pictures of notebooks are small, and what a notebook shows."""

import io

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from PIL import Image

from worldmodel.viewing import canvas as view


def picture() -> Figure:
    figure = view.canvas(4.0, 4.0)
    axes = figure.subplots()
    # Smooth in three colours and a little rough, as frames are: many more than 255 of them.
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    rough = np.random.default_rng(0).uniform(-0.03, 0.03, (64, 64, 3))
    axes.imshow(np.clip(np.stack([x, y, 1 - x], -1) + rough, 0, 1), interpolation="bilinear")
    view.framed(axes, "#ff0000", 2.0)
    return figure


def test_a_small_png_looks_the_same_and_has_fewer_bytes() -> None:
    figure, whole = picture(), io.BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight")
    small = view.small_png(figure)
    assert len(small) < 0.6 * len(whole.getvalue())
    pictures = [Image.open(io.BytesIO(each)).convert("RGB") for each in (whole.getvalue(), small)]
    assert pictures[0].size == pictures[1].size
    one, other = (np.asarray(each, float) for each in pictures)
    assert np.abs(one - other).max() < 40 and np.abs(one - other).mean() < 5
    # The same figure gives the same bytes: a notebook that runs again changes nothing.
    assert view.small_png(figure) == small


def test_a_notebook_shows_figures_by_it() -> None:
    shell = InteractiveShell.instance()
    try:
        view.show_small(shell)
        data, _ = shell.display_formatter.format(picture(), include=["image/png"])
        assert Image.open(io.BytesIO(data["image/png"])).mode == "P"
    finally:
        InteractiveShell.clear_instance()


def test_frames_have_a_border_and_no_ticks() -> None:
    (axes,) = picture().axes
    assert len(axes.get_xticks()) == 0 and len(axes.get_yticks()) == 0
    assert axes.spines["top"].get_edgecolor() == (1, 0, 0, 1)
