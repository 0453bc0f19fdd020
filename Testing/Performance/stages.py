"""Where the time of a first and a next prompt goes, stage by stage, in words of a user.

``python Testing/Performance/stages.py real 512 [--device cpu]`` prints JSON: seconds per stage, each second counted once.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import own  # noqa: E402
import volumes  # noqa: E402
from measuring import synchronise  # noqa: E402

REST = "everything else"


class Stages:
    """Exclusive seconds per label: a stage inside another one counts for itself alone."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._children: list[float] = []

    def wrap(self, owner: Any, name: str, label: Any) -> None:
        """Put a function under the clock; ``label``: text, or a function of the arguments."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.timed(label(*args) if callable(label) else label, lambda: inner(*args, **kwargs))

        setattr(owner, name, timed)

    def timed(self, label: str, work: Any) -> Any:
        """Run ``work``; its seconds less those of the stages inside it go to ``label``."""
        synchronise(self.device)
        started = time.perf_counter()
        self._children.append(0.0)
        try:
            return work()
        finally:
            synchronise(self.device)
            spent = time.perf_counter() - started
            inside = self._children.pop()
            self.seconds[label] = self.seconds.get(label, 0.0) + spent - inside
            if self._children:
                self._children[-1] += spent


def instrument(device: str) -> Stages:
    """The engine's steps under the clock."""
    from RefSAM3DLib import engine
    from RefSAM3DLib.branch import Branch
    from RefSAM3DLib.inference import session
    from RefSAM3DLib.inference.embed import GridEmbedding
    from RefSAM3DLib.inference.preprocess import Frame

    stages = Stages(device)
    stages.wrap(engine, "check_volume", "checking the voxels")
    stages.wrap(engine, "content_key", "recognising the image")
    stages.wrap(Branch, "text_features", "reading the prompt")
    stages.wrap(GridEmbedding, "__init__", "resampling")
    stages.wrap(engine.VolumeEmbedding, "read_both", "resampling")
    stages.wrap(GridEmbedding, "encode", lambda self, *_: "coarse look at all of it" if self.coarse else "close look where it can be")
    stages.wrap(session, "localize", "finding the place")
    stages.wrap(session, "decode_views", "drawing the structure")
    for owner, name in ((session, "to_native"), (session, "remove_specks"), (Frame, "place")):
        stages.wrap(owner, name, "writing it back to the image's own voxels")
    return stages


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args()
    from RefSAM3DLib import RefSAM3DEngine

    engine = RefSAM3DEngine.from_default(args.device)
    stages = instrument(args.device)
    out: dict[str, Any] = {}
    for name in args.volumes:
        volume = own.volume_of(volumes.load(name))
        engine.release()
        engine.branches[0].forget_texts()
        rows: dict[str, dict[str, float]] = {}
        for label, prompt in (("first prompt", own.FIRST), ("next prompt, new place", own.NEXT[1]), ("next prompt, place seen before", own.NEXT[1])):
            stages.seconds = {}
            engine.branches[0].forget_texts()
            target = volume if label == "first prompt" else engine._embedding(volume)
            stages.seconds = {}
            stages.timed(REST, lambda target=target, prompt=prompt: engine.segment(target, [prompt]))
            rows[label] = stages.seconds
        out[name] = rows
    sys.stdout.write("\n" + json.dumps({"volumes": out}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
