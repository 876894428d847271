"""Reads results of a run from caches and writes them."""
