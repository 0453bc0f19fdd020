"""One contestant on one volume in a process of its own: the last line of its output is JSON.

``python Testing/Performance/contestant.py own 128 --device cpu``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


@dataclass(frozen=True)
class Contestant:
    """title for people; environment to run in; what was granted to it, in sentences."""

    title: str
    environment: str = "own"
    concessions: tuple[str, ...] = ()


CONTESTANTS = {
    "own": Contestant("ours, default checkpoint"),
    "own-whole": Contestant("ours, without coarse-to-fine", "own", ("Fine tiles over the whole volume; otherwise as above.",)),
    "own-vit_b": Contestant(
        "ours, ViT-B size, random weights, 1.5 mm",
        "own",
        ("Random weights find no box: after the full coarse look the true box is taken; half of each box is drawn and exported.",),
    ),
    "own-literal": Contestant(
        "ours, literal and slow",
        "own",
        ("Nothing kept, nothing folded, the paper's decoder on every tile, attention written out, one tile at a time; random weights.",),
    ),
    "segresnet": Contestant(
        "MONAI SegResNet", "peers", ("Two output classes; cheap trilinear resampling to 1.5 mm; MONAI's default overlap of a quarter.",)
    ),
    "swinunetr": Contestant("MONAI SwinUNETR", "peers", ("As SegResNet; feature size 48.",)),
    "nnunet": Contestant(
        "nnU-Net PlainConvUNet, TotalSegmentator's way",
        "peers",
        ("One of the five part models; no mirroring; writing of files left out. Its next structure of the same part model costs nothing more.",),
    ),
    "nninteractive": Contestant(
        "nnInteractive's shape (ResEnc-L, 192^3)", "peers", ("The click is given: somebody had to find the structure. One patch, no zooming out.",)
    ),
    "voxtell": Contestant(
        "VoxTell 0.1.2", "peers", ("The text embedding (a language model of 4 billion parameters) is given; one prompt per call.",)
    ),
}


def measure(contestant: str, volume: str, device: str) -> dict[str, Any]:
    """Times, memory and facts of one round."""
    from measuring import Meter, calibration_gflops, synchronise

    facts: dict[str, Any] = {}
    engine: Any = None
    if contestant.startswith("own"):
        started = time.perf_counter()
        import RefSAM3DLib  # noqa: F401

        facts["import_s"] = time.perf_counter() - started
        import own

        engine = own.engine_of(contestant, device)
        facts["ready_s"] = time.perf_counter() - started
    before = calibration_gflops(device)
    import torch

    with torch.inference_mode():  # the first convolution of a process builds oneDNN's tables, or loads cuDNN; ours has had its self-check
        x, weight = torch.randn(2, 32, 24, 24, 24, device=device), torch.randn(32, 32, 3, 3, 3, device=device)
        torch.nn.functional.instance_norm(torch.nn.functional.conv_transpose3d(torch.nn.functional.conv3d(x, weight), weight))
    synchronise(device)
    meter = Meter(device)
    if engine is not None:
        facts.update(own.contest(contestant, volume, meter, engine))
    else:
        import peers

        if contestant in ("segresnet", "swinunetr"):
            facts.update(peers.monai(contestant, volume, meter, device))
        else:
            facts.update(getattr(peers, contestant)(volume, meter, device))
    return {"times": meter.times, "facts": facts, "calibration_gflops": [before, calibration_gflops(device)]}


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("volume")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args()
    sys.stdout.write("\n" + json.dumps(measure(args.contestant, args.volume, args.device)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
