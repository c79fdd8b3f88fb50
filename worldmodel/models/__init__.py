"""The hierarchy: encoders, predictors, targets. Knows nothing of Lightning or files."""
