"""The retrieval job on real Hebrew text: find a verse of the Hebrew Bible from a few words of it."""
