"""Choosing a device, without having one."""

from __future__ import annotations

import pytest
import torch

from RefSAM3DLib import device
from RefSAM3DLib.device import SelfCheck, choose_device, device_title, self_check
from RefSAM3DLib.errors import DeviceError


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = ["cuda", "mps", "cpu"]
    monkeypatch.setattr(device, "available_devices", lambda: found)
    return found


def checks(monkeypatch: pytest.MonkeyPatch, **passed: bool) -> None:
    monkeypatch.setattr(device, "self_check", lambda name: SelfCheck(name, passed[name.split(":")[0]], 0.5, f"{name}: difference 0.5"))


def test_cpu_agrees_with_itself() -> None:
    check = self_check("cpu")
    assert check.passed
    assert check.error == 0


def test_device_that_cannot_compute_fails_the_check_with_a_reason() -> None:
    check = self_check("meta")
    assert not check.passed
    assert "meta" in check.message


def test_wrong_convolution_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.9 shipped 3D convolutions that were wrong on some GPUs; one part in fifty must not pass."""
    real, calls = torch.nn.functional.conv3d, []

    def drifting(*args: torch.Tensor, **keywords: int) -> torch.Tensor:
        calls.append(1)
        return real(*args, **keywords) * (1.02 if len(calls) > 7 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "conv3d", drifting)
    check = self_check("cpu")
    assert not check.passed
    assert "FAILED" in check.message


@pytest.mark.parametrize("operation", ["conv_transpose3d", "scaled_dot_product_attention"])
def test_an_operation_that_gives_no_number_fails_the_check(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    real, calls = getattr(torch.nn.functional, operation), []

    def broken(*args: torch.Tensor, **keywords: int) -> torch.Tensor:
        calls.append(1)
        return real(*args, **keywords) * (float("nan") if len(calls) > 1 else 1.0)

    monkeypatch.setattr(torch.nn.functional, operation, broken)
    check = self_check("cpu")
    assert not check.passed
    assert "FAILED" in check.message


@pytest.mark.parametrize("request_", ["gpu", "", "cuda:x", "cpu:", "cuda:-1"])
def test_unknown_name_lists_the_known_ones(request_: str) -> None:
    with pytest.raises(DeviceError, match=rf"The device '{request_}' is unknown; use one of auto, cpu, cuda, mps"):
        choose_device(request_)


def test_missing_device_says_what_is_there(offered: list[str]) -> None:
    offered[:] = ["cpu"]
    with pytest.raises(DeviceError, match=r"'cuda' is not there; this computer has cpu\. Use --device auto"):
        choose_device("cuda")


def test_auto_takes_the_best_that_passes_and_says_why_a_better_one_was_left(offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checks(monkeypatch, cuda=False, mps=True)
    chosen, warnings = choose_device("auto")
    assert chosen.type == "mps"
    assert warnings == ["cuda: difference 0.5: not used."]
    checks(monkeypatch, cuda=False, mps=False)
    chosen, warnings = choose_device()
    assert chosen.type == "cpu"
    assert len(warnings) == 2
    checks(monkeypatch, cuda=True, mps=True)
    assert choose_device("auto") == (torch.device("cuda"), [])


def test_requested_device_that_computes_wrongly_is_refused(offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checks(monkeypatch, cuda=True, mps=False)
    with pytest.raises(DeviceError, match=r"'mps' did not pass its check \(mps: difference 0\.5\); close other programs that use it, or use --device cpu"):
        choose_device("mps")
    assert choose_device("cuda:1")[0] == torch.device("cuda:1")


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == (torch.device("cpu"), [])
    assert device.available_devices()[-1] == "cpu"
    assert device_title(torch.device("cpu")) == "cpu"
