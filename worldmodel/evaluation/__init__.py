"""What a trained model knows: probes, surprise, collapse, each beside its nulls."""
