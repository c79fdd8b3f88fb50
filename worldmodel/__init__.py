"""Video world models that learn by predicting what comes next, at several time-scales."""

__version__ = "0.1.0"
