"""Frames: one execution of a plan each. A frame knows what is done, what is next, and accounts for every step."""
