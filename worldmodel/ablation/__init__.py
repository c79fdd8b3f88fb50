"""Ablation studies: variants of a configuration, trained at equal budget and compared."""
