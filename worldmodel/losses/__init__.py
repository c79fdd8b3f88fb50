"""The objective: prediction in representation space, and what prevents collapse."""
