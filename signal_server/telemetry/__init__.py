"""Counts: the metrics, and one line of the log for each request."""
