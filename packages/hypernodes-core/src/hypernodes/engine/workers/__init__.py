"""Where calls are made: this thread, other threads, event loops, processes; how values and errors travel."""
