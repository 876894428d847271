"""Drivers decide which worker runs the next step of a frame, and when."""
