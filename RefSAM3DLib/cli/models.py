"""``refsam3d models``: which checkpoints there are."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

NAME = "models"
HELP = "list the known checkpoints, and whether they are installed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--verify", action="store_true", help="compute the hash of each installed file")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print them. 1 if --verify finds a damaged file."""
    from ..models_registry import DEFAULT_NAME, read_registry

    damaged = 0
    rows = []
    for entry in read_registry():
        state = "installed" if entry.is_installed else "damaged" if entry.path.is_file() else "not installed"
        if args.verify and entry.is_installed:
            state = "verified" if entry.verify() else "damaged"
        damaged += state == "damaged"
        rows.append((entry, state))
    if args.json:
        content = [{**asdict(entry), "state": state, "path": str(entry.path)} for entry, state in rows]
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        for entry, state in rows:
            default = " (default)" if entry.name == DEFAULT_NAME else ""
            sys.stdout.write(f"{entry.name}{default}: {state}, {entry.size_bytes / 1e6:.1f} MB, {entry.licence}\n")
            sys.stdout.write(f"  finds {', '.join(entry.structures) or 'nothing that is listed'}\n  file {entry.path}\n")
            if entry.url and state in ("not installed", "damaged"):
                sys.stdout.write(f"  from {entry.url}\n")
    if damaged and args.verify:
        sys.stderr.write(f"{damaged} of {len(rows)} models are damaged; fetch their files again.\n")
        return 1
    return 0
