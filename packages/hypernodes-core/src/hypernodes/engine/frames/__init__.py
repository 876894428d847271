"""Frames: each is one execution of a plan, knows which steps are done and which are next, and accounts for them."""
