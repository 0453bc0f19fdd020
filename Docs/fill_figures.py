"""Fill the tables of README.md from files that the evaluation and the benchmark wrote, and the registry from the weights that ship.

``python Docs/fill_figures.py [--check]``
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCORES = ROOT / "Resources" / "Models" / "refsam3d-small.scores.json"
SPEED = ROOT / "Docs" / "figures" / "speed.json"


def scores_table(values: dict) -> str:
    """Dice per structure with n and interval, validation and test."""
    lines = ["| structure | test Dice (95 % interval) | n | validation Dice | n |", "|---|---|---|---|---|"]
    names = list(values["test"]["structures"])
    for name in names:
        test, validation = (values[split]["structures"].get(name) for split in ("test", "validation"))
        cells = []
        for row, interval in ((test, True), (validation, False)):
            if row is None:
                cells += ["", ""]
                continue
            low, high = row["dice_interval"]
            cells += [f"{row['dice']:.2f} ({low:.2f} to {high:.2f})" if interval else f"{row['dice']:.2f}", str(row["n"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(values: dict) -> str:
    """Seconds and memory of the first and the next prompt."""
    lines = [
        f"Measured on {values['machine']}, torch {values['torch']}, {values['threads']} threads.", "",
        "| volume | first prompt | next prompt, nothing cached | next prompt, tiles cached | absent structure | memory above the volume |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in values["volumes"]:
        times = [f"{row['first_s']:.1f} s", *(f"{row[key]:.2f} s" for key in ("next_new_s", "next_cached_s", "absent_s"))]
        lines.append(f"| {row['title']} | {' | '.join(times)} | {row['memory_mb']:.0f} MB |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[Path, Callable[[dict], str]]] = {"scores": (SCORES, scores_table), "speed": (SPEED, speed_table)}


def registry() -> str:
    """``models.json`` for the weights file that ships, from its own header."""
    sys.path.insert(0, str(ROOT))
    from RefSAM3DLib.checkpoint import load_checkpoint

    weights = ROOT / "Resources" / "Models" / "refsam3d-small.safetensors"
    checkpoint = load_checkpoint(weights)
    licences = "; ".join(f"{row['name']}: {row['licence']}" for row in checkpoint.card["data"])
    entry = {"name": checkpoint.config.name, "file": weights.name, "url": "", "size_bytes": weights.stat().st_size, "sha256": checkpoint.sha256,
             "licence": f"Apache-2.0 for the weights; trained on {licences}", "structures": list(checkpoint.vocabulary.names)}  # fmt: skip
    return json.dumps([entry], indent=1) + "\n"


def filled(text: str) -> str:
    """README text with every block written anew."""
    for name, (path, table) in BLOCKS.items():
        block = re.compile(rf"(<!-- figures:{name} -->\n).*?(<!-- /figures -->)", re.S)
        if not path.is_file():
            raise SystemExit(f"{path.relative_to(ROOT)} does not exist; run the evaluation or the benchmark first.")
        content = table(json.loads(path.read_text(encoding="utf-8")))
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    return text


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` fail if the file is out of date."""
    readme, models = ROOT / "README.md", ROOT / "Resources" / "Models" / "models.json"
    wanted = {readme: filled(readme.read_text(encoding="utf-8")), models: registry()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        sys.stdout.write("".join(f"{path.relative_to(ROOT)} is out of date; run python Docs/fill_figures.py\n" for path in stale))
        return int(bool(stale))
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
