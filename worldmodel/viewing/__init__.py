"""What the notebooks show: arrays from a model and a set, and the figures drawn from them."""
