"""Where calls are made in this process: threads, event loops; and how many at a time."""
