"""Video world models that learn by predicting what comes next, at several time-scales."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`WorldModel`, imported when it is asked for: torch takes seconds."""
    if name == "WorldModel":
        from worldmodel.models.pretrained import WorldModel

        return WorldModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
