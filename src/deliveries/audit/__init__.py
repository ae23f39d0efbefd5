"""Answers computed from events alone."""
