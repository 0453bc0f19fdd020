"""The Python that a contestant runs in: ours, or a folder of its own where versions conflict.

nnU-Net's and VoxTell's packages need an older timm than open_clip. ``.venv-peers`` (ignored by git) holds them and sees the rest of our
environment behind it, so that every contestant runs on the same torch.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-peers"
PACKAGES = ("voxtell==0.1.2", "dynamic-network-architectures==0.4.4", "monai==1.6.1")


def python_of(environment: str) -> str:
    """Interpreter of "own" or "peers", which is made at first use (the package registry is needed then).

    Raises:
        SystemExit: the packages cannot be installed.
    """
    if environment == "own":
        return sys.executable
    python = PEERS / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = PEERS / "ready.txt"
    if ready.is_file() and ready.read_text(encoding="utf-8") == "\n".join(PACKAGES):
        return str(python)
    sys.stderr.write(f"Installing the peers ({', '.join(PACKAGES)}) into {PEERS.name} ...\n")
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    ours = sysconfig.get_paths()["purelib"]
    own = subprocess.run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True, check=True)
    Path(own.stdout.strip(), "ours.pth").write_text(ours + "\n", encoding="utf-8")
    installed = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES])
    if installed.returncode:
        raise SystemExit(f"The peers could not be installed into '{PEERS}'; look at pip's message above, or leave them out with --contestants own.")
    ready.write_text("\n".join(PACKAGES), encoding="utf-8")
    return str(python)
