"""Drivers: who runs the next step of a frame, where and when."""
