"""Decides: who meets whom, who waits, and who gets which reply. Knows nothing of HTTP, OpenPGP or metrics."""
