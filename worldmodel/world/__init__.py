"""The physics world: videos of simple things whose truth is known to the millimetre."""
