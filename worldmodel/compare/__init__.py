"""Reports of several runs side by side: which differences are more than chance."""
