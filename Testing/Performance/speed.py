"""Seconds and memory of the first and the next prompt, each volume in a process of its own.

``python Testing/Performance/speed.py [--rounds 3] [--device cpu] [--quick]`` writes ``Docs/figures/speed.json``, from which the
README's table is filled. Wall-clock medians over the rounds; memory is the peak of the process above what it held when the volume
was loaded and torch had run once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "Docs" / "figures" / "speed.json"
#: Title, and how the child makes the volume. The phantom lacks an esophagus: it is the absent structure.
PHANTOMS = {"phantom CT 128 x 128 x 128": ((128, 128, 128), (3.0, 3.0, 3.0)), "phantom CT 512 x 512 x 300": ((300, 512, 512), (0.8, 0.8, 1.5))}
REAL = "real CT 128 x 128 x 128 (OpenKBP, validation)"


def measure(title: str, device: str) -> dict:
    """Everything about one volume, in this process."""
    import torch

    from RefSAM3DLib import RefSAM3DEngine, load_volume
    from RefSAM3DLib.memory import peak_memory_mb
    from RefSAM3DLib.types import Modality

    started = time.perf_counter()
    engine = RefSAM3DEngine.from_default(device)
    ready = time.perf_counter() - started
    if title in PHANTOMS:
        from RefSAM3DLib.phantoms import STRUCTURES, head_and_neck_ct

        shape, spacing = PHANTOMS[title]
        volume, truth = head_and_neck_ct(3_000_000, spacing_xyz_mm=spacing, shape=shape, structures=[s for s in STRUCTURES if s != "esophagus"])
        del truth
    else:
        data = Path(os.environ.get("REFSAM3D_DATA", ROOT.parent / "shared" / "data")) / "openkbp_ct"
        first = json.loads((data / "datalist.json").read_text(encoding="utf-8"))["validation"][0]["image"]
        volume = load_volume(data / first, modality="ct")
    volume.modality = Modality.CT
    with torch.inference_mode():
        torch.nn.functional.conv3d(torch.randn(2, 32, 24, 24, 24), torch.randn(32, 32, 3, 3, 3))
    _reset_peak()
    before = _resident_mb()

    def timed(prompts: list[str]) -> float:
        clock = time.perf_counter()
        engine.segment(volume_or_embedding, prompts)
        return time.perf_counter() - clock

    volume_or_embedding = volume
    first_s = timed(["left parotid gland"])
    volume_or_embedding = engine._embedding(volume)  # as embed() would return it: the image is not read again
    next_new = timed(["larynx"])
    next_cached = timed(["voice box"])
    eight = timed(["left parotid gland", "larynx", "mandible", "brainstem", "spinal cord", "right parotid gland", "voice box", "lower jaw"])
    eight_cached = timed(["left parotid gland", "larynx", "mandible", "brainstem", "spinal cord", "right parotid gland", "voice box", "lower jaw"])
    peak = (peak_memory_mb() or 0.0) - before
    cache = engine.cached_bytes / (1 << 20)
    engine.release()
    volume_or_embedding = volume
    absent = timed(["esophagus"])
    fine_tiles = sum(g.encoded for e in engine._embeddings.values() for (_, coarse, _), g in e.grids.items() if not coarse)
    return {"title": title, "ready_s": ready, "first_s": first_s, "next_new_s": next_new, "next_cached_s": next_cached, "eight_s": eight,
            "eight_cached_s": eight_cached, "absent_s": absent, "absent_fine_tiles": fine_tiles, "memory_mb": peak, "cache_mb": cache}  # fmt: skip


def _resident_mb() -> float:
    with open("/proc/self/status", encoding="utf-8") as handle:
        return int(handle.read().partition("VmRSS:")[2].split()[0]) / (1 << 10)


def _reset_peak() -> None:
    """Start the kernel's high-water mark anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main() -> int:
    """Interleaved rounds over the volumes; JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="leave out the largest volume")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(measure(args.child, args.device)) + "\n")
        return 0
    titles = [REAL, *PHANTOMS]
    titles = titles[:-1] if args.quick else titles
    runs: dict[str, list[dict]] = {title: [] for title in titles}
    for number in range(args.rounds):
        for title in titles:
            command = [sys.executable, __file__, "--child", title, "--device", args.device]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            runs[title].append(json.loads(child.stdout.splitlines()[-1]))
            sys.stderr.write(f"round {number + 1}/{args.rounds}: {title}: {runs[title][-1]}\n")
    import torch

    volumes = [{"title": title, **{key: statistics.median(r[key] for r in rows) for key in rows[0] if key != "title"}} for title, rows in runs.items()]
    values = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__, "threads": torch.get_num_threads(),
              "device": args.device, "rounds": args.rounds, "load": os.getloadavg(), "volumes": volumes}  # fmt: skip
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
