"""Python packages that the engine needs: look, ask once, install without touching what Slicer ships, check by importing in the engine."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.worker_protocol import Diagnose

from . import session

log = logging.getLogger("refsam3d.installer")

#: package -> (module to look for, requirement, download in MB). torch with GPU support is the big one, see :func:`downloadMb`.
PACKAGES = {
    "torch": ("torch", "torch>=2.4,!=2.9.*", 2500),
    "open_clip_torch": ("open_clip", "open_clip_torch>=2.24", 10),
    "safetensors": ("safetensors", "safetensors>=0.4.3", 1),
    "SimpleITK": ("SimpleITK", "SimpleITK>=2.3", 50),
    "slicerio": ("slicerio", "slicerio>=1.1", 1),  # batch results and reviews; brings pynrrd
}
TORCH_REQUIREMENT = ">=2.4,!=2.9.*"
#: What Slicer ships and what must stay as it is.
PROTECTED = ("numpy", "scipy", "pillow", "SimpleITK", "pydicom", "setuptools", "requests", "torch", "torchvision")
#: MB of torch where there is no NVIDIA GPU to support.
TORCH_CPU_MB, TORCH_MAC_MB = 250, 100
#: Unpacked, a build of torch takes about so many times its download: with GPU support, and without it.
UNPACKED_GPU, UNPACKED_CPU = 2.0, 4.0


def missingPackages() -> list[str]:
    """Names of packages that cannot be found. Nothing is imported: some milliseconds."""
    importlib.invalidate_caches()
    missing = []
    for package, (module, _requirement, _size) in PACKAGES.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            missing.append(package)
    return missing


def checkVersions() -> None:
    """Refuse installed packages of a version that the engine must not be run with: another extension may have brought them.

    Raises:
        RefSAM3DError: names them, and says what to do.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:  # an older Slicer without it; Diagnostics names wrong versions all the same
        return
    wrong = []
    for package, (_module, requirement, _size) in PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # missing, or shipped without metadata
        if not Requirement(requirement).specifier.contains(version, prereleases=True):
            wrong.append(_("{package} {version} is installed, but {requirement} is needed").format(package=package, version=version, requirement=requirement))
    if wrong:
        raise RefSAM3DError(
            _("{wrong}; uninstall that version (torch: in the module PyTorch Util), restart Slicer, and press the button again.").format(wrong="; ".join(wrong))
        )


def question(missing: list[str]) -> str:
    """What will be installed and how much it is."""
    size = sum(downloadMb(package) for package in missing)
    return _(
        "RefSAM3D needs Python packages that are not installed: {names} (up to {size:.1f} GB of download). "
        "They are installed into Slicer's Python; what Slicer ships stays as it is."
    ).format(names=", ".join(missing), size=size / 1000.0)


def offer(missing: list[str], messages: Any, retry: Callable[[], None], setStatus: Callable[[str], None]) -> None:
    """Ask inside the panel; ``retry`` runs after a successful installation."""

    def start() -> None:
        messages.clear()
        setStatus(_("Installing {names}…").format(names=", ".join(missing)))
        slicer.app.processEvents()
        try:
            install(missing)
        except Exception as error:
            log.exception("the installation failed")
            setStatus("")
            messages.show("error", _("The installation failed: {error}").format(error=error), {_("Try again"): start})
            return
        setStatus(_("Checking the installation…"))
        verify(lambda problem: finished(problem))

    def finished(problem: str) -> None:
        setStatus("")
        if problem:
            messages.show("error", problem, {_("Try again"): start})
        else:
            retry()

    messages.show("info", question(missing), {_("Install"): start, _("Not now"): messages.clear})


def hasGpu() -> bool:
    """True where torch comes with GPU support: the PyTorch extension asks the NVIDIA driver's own program, too."""
    return sys.platform != "darwin" and shutil.which("nvidia-smi") is not None


def downloadMb(package: str) -> int:
    """What will be fetched of a package on this computer."""
    if package != "torch" or hasGpu():
        return PACKAGES[package][2]
    return TORCH_MAC_MB if sys.platform == "darwin" else TORCH_CPU_MB


def checkDisk(missing: list[str]) -> None:
    """Raises RefSAM3DError if the packages will not fit: a full disk in the middle of an installation leaves a broken one.

    The unpacked packages go where Slicer's Python keeps its own; the largest file that is fetched lies in the temporary folder meanwhile.
    """
    sizes = [downloadMb(package) / 1024.0 for package in missing]
    target, temporary = _existing(sysconfig.get_path("purelib")), tempfile.gettempdir()
    unpacked, fetched = (UNPACKED_GPU if hasGpu() else UNPACKED_CPU) * sum(sizes), max(sizes, default=0.0)
    if os.stat(target).st_dev == os.stat(temporary).st_dev:
        needs = {target: unpacked + fetched}
    else:
        needs = {target: unpacked, temporary: fetched}
    for place, needed in needs.items():
        free = shutil.disk_usage(place).free / 2**30
        if free < needed:
            text = _("The installation needs up to {needed:.1f} GB in '{place}', but only {free:.1f} GB are free there; free some space first.")
            advice = "" if place == target and len(needs) > 1 else " " + _moveTemporary(temporary)
            raise RefSAM3DError(text.format(needed=needed, free=free, place=place) + advice)


def _moveTemporary(temporary: str) -> str:
    text = _("Or set the environment variable TMPDIR to a folder on a larger disk and restart Slicer: temporary files go to '{place}' now.")
    return text.format(place=temporary)


def _existing(folder: str) -> str:
    """The folder, or the nearest one above it that is there."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def constraintLines() -> list[str]:
    """Pin what is there: pip may add packages, never exchange these."""
    lines = []
    for package in PROTECTED:
        try:
            lines.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return lines


def install(missing: list[str]) -> None:
    """Install on the main thread (pip from another one crashes macOS); Slicer shows its own progress.

    Raises:
        RefSAM3DError: there is no torch for this Slicer, the disk is too small, or torch is missing and the PyTorch extension is too.
        Exception: whatever pip reports.
    """
    if "torch" in missing and sys.platform == "darwin" and platform.machine() == "x86_64":
        text = _("This Slicer is a program for Intel processors, for which PyTorch on macOS ends at version 2.2; RefSAM3D needs 2.4 or later.")
        raise RefSAM3DError(text + " " + _("Use a Slicer for Apple silicon, or RefSAM3D on the command line in a native Python (see README)."))
    checkDisk(missing)
    if "torch" in missing:
        _installTorch()
    rest = [PACKAGES[package][1] for package in missing if package != "torch"]
    if not rest:
        return
    descriptor, path = tempfile.mkstemp(prefix="RefSAM3D-constraints-", suffix=".txt", text=True)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write("\n".join(constraintLines()) + "\n")
        _pipInstall(rest, path)
    finally:
        os.unlink(path)
    importlib.invalidate_caches()


def _installTorch() -> None:
    """Only through the PyTorch extension, which picks the build that fits the driver."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        raise RefSAM3DError(_("The extension 'PyTorch' is not installed; install it in the Extensions Manager, restart Slicer and try again.")) from None
    if PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT) is None:
        raise RefSAM3DError(_("The PyTorch extension did not install torch; see the Python console for the reason."))


def _pipInstall(requirements: list[str], constraints: str) -> None:
    packaging = getattr(slicer, "packaging", None)
    if packaging is not None and hasattr(packaging, "pip_ensure"):  # Slicer 5.12 and later
        from packaging.requirements import Requirement

        packaging.pip_ensure([Requirement(r) for r in requirements], constraints=constraints, prompt_install=False, requester="RefSAM3D")
    else:
        slicer.util.pip_install(["-c", constraints, *requirements])


def verify(answer: Callable[[str], None]) -> None:
    """Import everything in a fresh engine process; ``answer("")`` if that works, else what does not."""
    session.stop()

    def received(data: dict[str, Any] | None) -> None:
        if data is None or "error" in data:
            answer(_("The engine's process could not be started; open Diagnostics."))
            return
        broken = [name for name, version in data.get("packages", {}).items() if version is None]
        answer(_("These packages cannot be imported: {names}. Open Diagnostics.").format(names=", ".join(broken)) if broken else "")

    session.engineRunner().ask(Diagnose, received)
