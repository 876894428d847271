"""The concurrent driver: one loop starts calls as workers become free and waits for their results."""
