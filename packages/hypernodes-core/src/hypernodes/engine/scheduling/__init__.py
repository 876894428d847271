"""The one loop for all modes, and what it starts and waits for."""
