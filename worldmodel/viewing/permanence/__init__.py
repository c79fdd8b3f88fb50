"""What a model believes of a thing behind a screen, and how much the impossible surprises it.

Notebook 04. `belief` and `surprise` ask, `figures` draws.
"""

from worldmodel.viewing.permanence.belief import (
    CLOCK,
    LAST_SEEN,
    NETWORKS,
    NUM_CLIPS,
    NUM_MEMBERS,
    VELOCITY,
    Belief,
    Watched,
    WatchTracks,
    asked,
    believe,
    watch_tracks,
)
from worldmodel.viewing.permanence.figures import (
    COLOURS,
    COLUMNS,
    HIDDEN_FOR,
    belief_errors,
    belief_frames,
    belief_over_time,
    block_frames,
    block_surprise,
    kind_accuracies,
    presence_over_time,
)
from worldmodel.viewing.permanence.surprise import (
    Judgement,
    Presence,
    ask_presence,
    clearest_block,
    judge_blocks,
)

__all__ = [
    "CLOCK",
    "COLOURS",
    "COLUMNS",
    "HIDDEN_FOR",
    "LAST_SEEN",
    "NETWORKS",
    "NUM_CLIPS",
    "NUM_MEMBERS",
    "VELOCITY",
    "Belief",
    "Judgement",
    "Presence",
    "WatchTracks",
    "Watched",
    "ask_presence",
    "asked",
    "belief_errors",
    "belief_frames",
    "belief_over_time",
    "believe",
    "block_frames",
    "block_surprise",
    "clearest_block",
    "judge_blocks",
    "kind_accuracies",
    "presence_over_time",
    "watch_tracks",
]
