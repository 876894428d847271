"""Workers that make calls: the calling thread, threads, event loops, processes; transfer of values and errors."""
