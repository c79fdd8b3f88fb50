"""What can be read from frozen states: depth, places, what things are, whether they are there."""
