"""Reductions over arrays.

The functions are those of the extension, without a layer of Python between: a sum
of a few numbers takes less time than a call.
"""

from allcores._core import sum  # noqa: A004

__all__ = ["sum"]

# What help() and pickle call it by.
sum.__module__ = "allcores"
