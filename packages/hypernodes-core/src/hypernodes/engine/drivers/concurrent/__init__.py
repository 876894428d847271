"""Several calls at a time: one loop starts what can start and waits for what has been started."""
