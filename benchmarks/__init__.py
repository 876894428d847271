"""Measurements of HyperNodes beside the ideal and beside bare tools, in one run on one machine."""
