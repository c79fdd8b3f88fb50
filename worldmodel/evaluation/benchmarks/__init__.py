"""Published benchmarks, scored as their authors do where that can be trusted."""
