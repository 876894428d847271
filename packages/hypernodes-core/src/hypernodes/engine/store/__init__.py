"""What a run reads from caches and writes to them."""
