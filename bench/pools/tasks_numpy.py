"""Tasks that need NumPy."""

import numpy as np

PIECES = 8
DOUBLES = 8_000_000  # 64 MB


def squares(count):
    """The sum of some squares."""
    return int(np.sum(np.arange(count) ** 2))


def piece_sum(array, piece):
    """The sum of one of eight pieces, so that all tasks together read all of it."""
    size = len(array) // PIECES
    return float(array[piece * size : (piece + 1) * size].sum())


def filled(value):
    """A new array of 64 MB."""
    return np.full(DOUBLES, float(value))
