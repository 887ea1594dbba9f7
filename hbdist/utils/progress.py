"""Type of progress callbacks."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Callback with the number of items done, and the number of items in all."""
