"""What a page says in its own words: warnings, and captions of figures and kinds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worldmodel.evaluation.collapse import has_collapsed

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Caption:
    """Where a figure stands and what it shows.

    Attributes:
        name: of its file in `figures/`, without `.png`.
        section: path of the section it belongs to.
        text: below it.
        alt: what is in the picture, for people who do not see it.
    """

    name: str
    section: str
    text: str
    alt: str


CARD_CAPTION = Caption(
    "report_card",
    "card",
    "The report card as one picture, for slides.",
    "Every concept of the report card with its age, its score and interval between chance and "
    "perfect, untrained networks, the strongest null, and a word.",
)
CAPTIONS = (
    Caption(
        "loss_curves",
        "prediction",
        "Loss, and error over that of trivial predictors, as the run left them in metrics.csv.",
        "Two plots over optimizer steps: losses, and ratios of prediction error per level.",
    ),
    Caption(
        "prediction_ratios",
        "prediction",
        "Error of prediction over that of each rule without a model. Below 1 is better.",
        "Bars for each level and horizon, one for each trivial predictor, and a line at 1.",
    ),
    Caption(
        "depth_strip",
        "depth",
        "Frames of the test split, their true depth, the depth that a linear probe reads from "
        "single-frame tokens, and the error.",
        "Four rows of pictures: frames, true depth, depth from tokens, absolute error.",
    ),
    Caption(
        "hidden_position",
        "position.hidden",
        "Where a probe of the context state says that the object is. Grey: wholly hidden. The "
        "clips in which it is hidden longest.",
        "Plots of the object's horizontal place over time, the true one and the decoded one, with "
        "the time shaded in which it is hidden.",
    ),
    Caption(
        "position_ahead",
        "position_ahead",
        "Error of the object's place, read from predicted tokens, beside copied and real ones.",
        "A line per level over the frames predicted ahead, beside those of copied and of real "
        "tokens.",
    ),
    Caption(
        "surprise_kinds",
        "surprise",
        "Share of blocks in which the impossible surprises more, beside untrained networks.",
        "Two bars for each kind, the model's with its interval and the untrained networks' with "
        "their range, and a line at chance.",
    ),
    Caption(
        "surprise_block",
        "surprise",
        "A block with its surprise over time, for print; in motion it stands above.",
        "Ten frames of both worlds above the four clips' surprise over time.",
    ),
)

# What a kind asks, and what the two impossible clips show.
KINDS = {
    "reveal": (
        "A thing stops behind a screen, and the screen leaves: it must be there.",
        "AB: nothing is there. BA: it is there, though nothing had gone in.",
    ),
    "permanence": (
        "What goes in behind a screen comes out.",
        "AB: it never comes out. BA: something comes out that never went in.",
    ),
    "constancy": (
        "What comes out has the colour, shape and size of what went in.",
        "AB and BA: one of the three has changed behind the screen.",
    ),
    "continuity": (
        "From one screen to the next a thing crosses the gap between them.",
        "AB: it is seen before and after, never between. BA: in the gap alone.",
    ),
    "solidity": (
        "Nothing passes through a wall, which a screen has covered since.",
        "AB: it passes the wall. BA: it turns round where nothing stood.",
    ),
    "support": (
        "What a platform holds up stays up, the rest falls; a screen covers both.",
        "AB: it falls through the platform. BA: it comes to rest on nothing.",
    ),
    "gravity": (
        "What rises slows down and falls. In open view.",
        "AB and BA: a rising thing falls at full speed at once, a falling one rises.",
    ),
    "inertia": (
        "What rolls goes on, what lies stays. In open view.",
        "AB and BA: it turns round, stops dead or sets off, and nothing touched it.",
    ),
    "collision": (
        "What is struck moves. In open view.",
        "AB: it is struck, and all stands still. BA: it moves off unstruck.",
    ),
}


def warnings(report: Section) -> Iterator[str]:
    """What a reader must know before any score, in sentences: levels that have learned nothing."""
    for level, values in _levels(report, "collapse"):
        rank, share = values.get("effective_rank"), values.get("rank_fraction")
        if not isinstance(rank, float) or not isinstance(share, float) or share <= 0:
            continue
        dim = round(rank / share)
        if has_collapsed(rank, dim):
            yield (
                f"{level} has collapsed: its tokens use {rank:.1f} of {dim} directions. Errors "
                "and ratios of this level say nothing."
            )
    for level, horizons in _levels(report, "prediction"):
        skills = [
            values["skill_ratio"]
            for values in horizons.values()
            if isinstance(values, Mapping) and isinstance(values.get("skill_ratio"), float)
        ]
        if skills and min(skills) >= 1:
            yield (
                f"{level} predicts no better than a rule without a model at any horizon: its "
                f"error is at best {min(skills):.2f} of the best trivial predictor's."
            )


def _levels(report: Section, name: str) -> Iterator[tuple[str, Section]]:
    section = report.get(name)
    for level, values in section.items() if isinstance(section, Mapping) else ():
        if isinstance(values, Mapping):
            yield level.replace("level", "Level "), values
