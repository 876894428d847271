"""What a run knows without computing it: signatures, look-ups, items that are there already."""
