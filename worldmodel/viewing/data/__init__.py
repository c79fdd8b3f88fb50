"""The data, looked at: scenes and their truth, matched blocks, and a clip's way into a batch.

Notebook 01. `scenes` and `journey` read, `figures` draws.
"""

from worldmodel.viewing.data.figures import (
    GREY,
    REFERRED,
    UNREAD,
    WANTED,
    WORLD_COLOURS,
    batch_sheet,
    block_clips,
    block_worlds,
    contact_sheet,
    crop_and_colour,
    decoding_plan,
    members_table,
    order_of_epochs,
    resumed_batches,
    set_table,
    truth_maps,
    truth_over_time,
    what_is_shown,
)
from worldmodel.viewing.data.journey import Journey, Resumed, follow_clip, stop_and_go
from worldmodel.viewing.data.scenes import (
    FREE,
    first_block,
    first_of_each_kind,
    named_ids,
    of_kind,
    same_pictures,
)

__all__ = [
    "FREE",
    "GREY",
    "REFERRED",
    "UNREAD",
    "WANTED",
    "WORLD_COLOURS",
    "Journey",
    "Resumed",
    "batch_sheet",
    "block_clips",
    "block_worlds",
    "contact_sheet",
    "crop_and_colour",
    "decoding_plan",
    "first_block",
    "first_of_each_kind",
    "follow_clip",
    "members_table",
    "named_ids",
    "of_kind",
    "order_of_epochs",
    "resumed_batches",
    "same_pictures",
    "set_table",
    "stop_and_go",
    "truth_maps",
    "truth_over_time",
    "what_is_shown",
]
