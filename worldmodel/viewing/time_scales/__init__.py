"""What each level can predict, and how far: notebook 05. `measure` asks, `figures` draws."""

from worldmodel.viewing.time_scales.figures import (
    NUM_BINS,
    NUM_SHOWN,
    ROUTES,
    by_contents,
    change_strip,
    fine_against_coarse,
    horizon_errors,
    memory_spectra,
    places_ahead,
    predictability,
    scale_table,
    tenths,
)
from worldmodel.viewing.time_scales.measure import (
    CONTENTS,
    NetworkScales,
    Scales,
    Sizes,
    measure_scales,
    rollout_intervals,
    token_contents,
    token_errors,
)

__all__ = [
    "CONTENTS",
    "NUM_BINS",
    "NUM_SHOWN",
    "ROUTES",
    "NetworkScales",
    "Scales",
    "Sizes",
    "by_contents",
    "change_strip",
    "fine_against_coarse",
    "horizon_errors",
    "measure_scales",
    "memory_spectra",
    "places_ahead",
    "predictability",
    "rollout_intervals",
    "scale_table",
    "tenths",
    "token_contents",
    "token_errors",
]
