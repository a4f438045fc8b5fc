"""Carries: a request from its bytes to its reply, by HTTP."""
