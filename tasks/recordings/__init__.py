"""Recordings of one's own: EDF, BDF, WFDB, sound files, windows in arrays, Hugging Face data sets."""

from .task import Recordings

__all__ = ["Recordings"]
