"""Data sets: where the images are, decoding once, and distortion of whole batches."""

from __future__ import annotations
