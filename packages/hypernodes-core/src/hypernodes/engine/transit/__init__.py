"""Values and errors on their way between processes."""
