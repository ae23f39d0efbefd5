"""Claiming, performing and recording: the loop and the threads around it."""
