"""What is installed, how it is asked for, and that nothing of Slicer's is touched. pip itself is replaced."""

from __future__ import annotations

import importlib.metadata
import sys
import sysconfig
import types
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DSlicer import installer


@pytest.fixture
def calls(monkeypatch):
    """Slicer 5.12: slicer.packaging; and the PyTorch extension."""
    made = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None, torchvisionVersionRequirement=None):
            made.append(("torch", askConfirmation, torchVersionRequirement))
            return object()

    def pip_ensure(
        requirements, constraints=None, skip_packages=None, prompt_install=True, prompt_restart=True, requester=None, skip_in_testing=True, show_progress=True
    ):
        made.append(("pip_ensure", [str(r) for r in requirements], Path(constraints).read_text(encoding="utf-8"), prompt_install, requester))

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(slicer, "packaging", types.SimpleNamespace(pip_ensure=pip_ensure), raising=False)
    return made


def test_nothing_is_imported_to_see_what_is_missing(monkeypatch):
    assert installer.missingPackages() == []
    monkeypatch.setitem(installer.PACKAGES, "nobody", ("a_module_that_nobody_has", "nobody", 1))
    assert installer.missingPackages() == ["nobody"]
    assert "torch" not in sys.modules


def test_torch_comes_from_the_pytorch_extension_and_the_rest_with_constraints(calls):
    installer.install(["torch", "open_clip_torch", "safetensors"])
    assert calls[0] == ("torch", False, ">=2.4,!=2.9.*")
    kind, requirements, constraints, prompt, requester = calls[1]
    assert (kind, requirements, prompt, requester) == ("pip_ensure", ["open_clip_torch>=2.24", "safetensors>=0.4.3"], False, "RefSAM3D")
    for package in ("numpy", "SimpleITK", "torch"):
        assert f"{package}=={importlib.metadata.version(package)}" in constraints.splitlines()


def test_older_slicer_uses_pip_install_with_the_same_constraints(calls, monkeypatch, tmp_path):
    monkeypatch.delattr(slicer, "packaging")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, seen = tmp_path, []
    monkeypatch.setattr(slicer.util, "pip_install", lambda arguments: seen.append(list(arguments)), raising=False)
    installer.install(["safetensors"])
    assert seen[0][0] == "-c"
    assert seen[0][2:] == ["safetensors>=0.4.3"]
    assert list(folder.iterdir()) == [], "the constraints file is removed"


def test_without_the_pytorch_extension_the_user_is_told_where_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(RefSAM3DError, match="Extensions Manager"):
        installer.install(["torch"])


@pytest.fixture
def gpu(monkeypatch):
    """A computer with an NVIDIA driver."""
    monkeypatch.setattr(installer.sys, "platform", "linux")
    monkeypatch.setattr(installer.shutil, "which", lambda name: "/usr/bin/" + name)


def disks(monkeypatch, target, temporary, separate=True):
    """GiB free where Slicer's packages are, and in the temporary folder."""
    purelib, device = sysconfig.get_path("purelib"), {}
    device[installer.tempfile.gettempdir()] = 2 if separate else 1
    free = {purelib: target, installer.tempfile.gettempdir(): temporary}
    monkeypatch.setattr(installer.os, "stat", lambda place: types.SimpleNamespace(st_dev=device.get(place, 1)))
    monkeypatch.setattr(installer.os.path, "isdir", lambda place: True)
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=int(free[place] * 2**30)))


def test_a_slicer_that_no_torch_fits_is_told_before_anything_is_installed(calls, monkeypatch):
    """Slicer for Intel processors, also under Rosetta: PyTorch for them ended at 2.2."""
    monkeypatch.setattr(installer.sys, "platform", "darwin")
    monkeypatch.setattr(installer.platform, "machine", lambda: "x86_64")
    with pytest.raises(RefSAM3DError, match=r"Intel processors.*Apple silicon"):
        installer.install(["torch", "safetensors"])
    assert calls == []


def test_a_small_disk_is_noticed_before_anything_is_installed(calls, gpu, monkeypatch):
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=2**30, total=2**31, used=0))
    with pytest.raises(RefSAM3DError, match=r"only 1\.0 GB are free"):
        installer.install(["torch"])
    assert calls == []


def test_the_temporary_folder_needs_room_for_the_largest_download_only(gpu, monkeypatch):
    disks(monkeypatch, target=5.2, temporary=2.6)
    installer.checkDisk(["torch", "open_clip_torch"])
    disks(monkeypatch, target=5.2, temporary=1.0)
    with pytest.raises(RefSAM3DError, match=r"needs up to 2\.4 GB in .* TMPDIR"):
        installer.checkDisk(["torch", "open_clip_torch"])
    disks(monkeypatch, target=3.0, temporary=100.0)
    with pytest.raises(RefSAM3DError, match=r"needs up to 4\.9 GB .* only 3\.0 GB are free there; free some space first\.$"):
        installer.checkDisk(["torch"])


def test_on_one_disk_both_must_fit(gpu, monkeypatch):
    disks(monkeypatch, target=6.0, temporary=6.0, separate=False)
    with pytest.raises(RefSAM3DError, match=r"needs up to 7\.3 GB .* TMPDIR"):
        installer.checkDisk(["torch"])


@pytest.mark.parametrize(("platform", "enough"), [("linux", 1.3), ("win32", 1.3), ("darwin", 0.5)])
def test_without_an_nvidia_gpu_little_is_needed(monkeypatch, platform, enough):
    monkeypatch.setattr(installer.sys, "platform", platform)
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    disks(monkeypatch, enough, enough, separate=False)
    installer.checkDisk(["torch"])
    disks(monkeypatch, 0.3, 0.3, separate=False)
    with pytest.raises(RefSAM3DError):
        installer.checkDisk(["torch"])
    assert "2.5 GB" not in installer.question(["torch"])


def test_the_question_names_packages_and_size(gpu):
    text = installer.question(["torch", "open_clip_torch"])
    assert "torch, open_clip_torch" in text
    assert "2.5 GB" in text


def test_requirements_are_those_of_the_project():
    import tomllib

    project = tomllib.loads((gui.slicer_app.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for package, (_module, requirement, _size) in installer.PACKAGES.items():
        assert requirement in project, package
