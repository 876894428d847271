"""Sequential runs in plain loops, each with no more than its features take."""
