"""Generated volumes with known truth: for the demo, for tests and benchmarks, and as a small share of the training data.

Nothing here was taken from a patient. The anatomy is a list of simple solids (``head``, ``neck``) with sizes, places and HU that match
averages over public head-and-neck CT; a seed varies all of it.
"""

from __future__ import annotations

from .head_and_neck import head_and_neck_ct
from .patient import FIRST_HELD_OUT_SEED, STRUCTURES, TISSUE_HU

__all__ = ["FIRST_HELD_OUT_SEED", "STRUCTURES", "TISSUE_HU", "head_and_neck_ct"]
