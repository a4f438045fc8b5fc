"""Remembers: in this process, or in Redis."""
