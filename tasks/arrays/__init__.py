"""Streams of one's own: files of numbers and standard input."""

from .task import Arrays

__all__ = ["Arrays"]
