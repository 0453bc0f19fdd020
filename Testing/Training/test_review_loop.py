"""The loop in one command, on phantoms and a tiny network: every step runs, the figures are whole, a second call repeats nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def loop(tmp_path: Path, data: Path, model: Path) -> str:
    command = [sys.executable, str(ROOT / "Testing" / "Performance" / "review_loop.py"), str(data), str(tmp_path / "work")]
    options = ["--reviewed", "2", "--others", "1", "--aside", "0", "--workers", "0", "--threads", "1", "--model", str(model)]
    done = subprocess.run(
        [*command, *options, "--config", str(tmp_path / "settings.toml"), "-o", str(tmp_path / "loop.json")], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_loop_from_batch_to_scores(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "Testing" / "harness"))
    from tiny_checkpoint import tiny_checkpoint

    from RefSAM3DLib.checkpoint import save_checkpoint

    tiny_model = tmp_path / "base.safetensors"
    save_checkpoint(tiny_checkpoint(), tiny_model)
    (tmp_path / "settings.toml").write_text("steps = 3\n")
    loop(tmp_path, tiny_data / "phantoms_ct", tiny_model)
    figures = json.loads((tmp_path / "loop.json").read_text())
    assert figures["export"]["cases"] == 2
    assert sum(figures["review"]["decisions"].values()) >= figures["export"]["structures"] > 0
    assert figures["finetune"]["steps"] == 3
    rows = figures["dice"]["structures"]
    assert figures["dice"]["all"]["n"] == sum(row["n"] for row in rows.values())
    assert all(row["change"] == pytest.approx(row["after"] - row["before"], abs=2e-4) for row in rows.values())
    assert figures["adapter_bytes"] > 1000
    journals = {path: path.read_text() for path in (tmp_path / "work").rglob("journal.jsonl")}
    assert len(journals) == 3
    trail = next((tmp_path / "work").rglob("review.jsonl")).read_text()
    loop(tmp_path, tiny_data / "phantoms_ct", tiny_model)
    assert next((tmp_path / "work").rglob("review.jsonl")).read_text() == trail
    for path, before in journals.items():
        assert path.read_text().count('"event":"done"') == before.count('"event":"done"') > 0
    assert json.loads((tmp_path / "loop.json").read_text())["dice"] == figures["dice"]
