"""Commands for those who work on this repository; each is run as a file."""
