"""One run: its state and what it keeps, the frames in which plans are executed, what running a step means."""
