"""Violation of expectation: is the impossible more surprising than the possible?

A block holds two valid worlds A and B that are equal to the bit while something is hidden. Changing
from one to the other in that time gives the impossible clips AB and BA; AA and BB are the worlds
themselves. With S a clip's surprise, the interaction contrast S(AB) + S(BA) - S(AA) - S(BB) is zero
for every scorer whose memory is shorter than the hidden interval, whatever it sees in single
frames; only what is remembered across the interval can make it positive.

`ScoreBlocks` runs networks over blocks, `join_scores` puts its results together, `choose` decides
on validation blocks where the headline is read, and `surprise_sections` reports it on test blocks.
"""

from worldmodel.evaluation.network import Place
from worldmodel.evaluation.surprise.choice import (
    COMBINED,
    OPEN_KINDS,
    Candidate,
    Choice,
    choose,
)
from worldmodel.evaluation.surprise.measures import (
    accuracy_interval,
    bootstrap_interval,
    contrast_wins,
    kind_mean,
    pair_wins,
)
from worldmodel.evaluation.surprise.scores import (
    BlockFacts,
    BlockScores,
    NetworkScores,
    join_scores,
)
from worldmodel.evaluation.surprise.scoring import (
    ScoreBlocks,
    prediction_surprise,
    score_blocks,
)
from worldmodel.evaluation.surprise.sections import headline_section, surprise_sections
from worldmodel.evaluation.surprise.splices import (
    CLIPS,
    splice,
    splice_frames,
    worlds_by_step,
)

__all__ = [
    "CLIPS",
    "COMBINED",
    "OPEN_KINDS",
    "BlockFacts",
    "BlockScores",
    "Candidate",
    "Choice",
    "NetworkScores",
    "Place",
    "ScoreBlocks",
    "accuracy_interval",
    "bootstrap_interval",
    "choose",
    "contrast_wins",
    "headline_section",
    "join_scores",
    "kind_mean",
    "pair_wins",
    "prediction_surprise",
    "score_blocks",
    "splice",
    "splice_frames",
    "surprise_sections",
    "worlds_by_step",
]
