"""What to do when a run fails: one sentence for each kind of failure."""

from __future__ import annotations

from .runs import Failure

_ADVICE = {
    "memory": "Close other programs, choose a smaller region of interest or crop the volume, or choose another device under Advanced; then try again.",
    "device": "Choose another device under Advanced; the CPU always works.",
    "checkpoint": "Choose another model under Advanced, or install the model again.",
    "packages": "Open Diagnostics to see which Python package is missing or broken.",
    "internal": "Try again; if it happens again, copy the report under Diagnostics and send it to the authors.",
}


def adviceFor(category: str) -> str:
    """The next step; empty where the message itself says it (input, prompt)."""
    return _ADVICE.get(category, "")


#: True of one run, whose results are written once all are there; :func:`failedText` puts right what a task of several had written before.
NOT_CHANGED = "Your segmentation was not changed."


def deathFailure(cause: str, logTail: str) -> Failure:
    """For a worker that ended without an answer. Nothing of its run was written: results are only written once all are there."""
    category = "memory" if "memory" in cause else "internal"
    return Failure(category, f"The engine stopped unexpectedly. {cause} {NOT_CHANGED}", adviceFor(category), logTail)
