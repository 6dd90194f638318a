"""Inputs and comparisons shared by tests and benchmarks, and of use to those who add an op."""

from tts_kernels.testing.compare import assert_matches_oracle
from tts_kernels.testing.inputs import POISON_INDEX, peaky

__all__ = ["POISON_INDEX", "assert_matches_oracle", "peaky"]
