"""Acceleration backend for tree-search decoding of language models."""

__version__ = "0.1.0"
