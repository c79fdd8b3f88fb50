"""Surprise over time on any video."""
