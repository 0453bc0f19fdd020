"""Other people's networks with random weights: cost does not depend on what they have learnt.

Each gives the times of a first and a next prompt, how many tiles its own sliding window takes, and the seconds of the network alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import volumes
from measuring import Meter, synchronise
from torch import nn
from windows import LARGE_PATCH, PATCH, SPACING, tiles_of, working_shape

#: ResEnc-L: the network of nnInteractive, and the encoder of VoxTell.
RESENC_L = {
    "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "conv_op": nn.Conv3d, "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5, "n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "n_conv_per_stage_decoder": [1] * 5, "conv_bias": True,
    "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
#: One of TotalSegmentator's five part models: 24 structures and background.
CLASSES = 25


class Network(nn.Module):
    """A network under a clock of its own."""

    def __init__(self, inner: nn.Module, device: str) -> None:
        super().__init__()
        self.inner, self.device, self.seconds, self.calls = inner.eval().requires_grad_(False).to(device), device, 0.0, 0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """As the inner one."""
        synchronise(self.device)
        started = time.perf_counter()
        out = self.inner(*inputs)
        synchronise(self.device)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        return out


def _measure(meter: Meter, network: Network, tiles: int, first: Callable[[], Any], following: Callable[[], Any] | None) -> dict[str, Any]:
    meter.start_memory()
    with torch.inference_mode():
        meter.timed("first", first)
        facts = {"tiles": tiles, "tile_s": network.seconds / network.calls, "network_calls": network.calls}
        if following is not None:
            meter.timed("next", following)
    return {**facts, "memory": meter.memory()}


def monai(network_name: str, name: str, meter: Meter, device: str) -> dict[str, Any]:
    """SegResNet or SwinUNETR with MONAI's own sliding window; one organ and background."""
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import SegResNet, SwinUNETR

    stored = volumes.load(name)
    shape = working_shape(stored.array.shape, stored.spacing)
    inner = (
        SegResNet(init_filters=32, in_channels=1, out_channels=2, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
        if network_name == "segresnet"
        else SwinUNETR(in_channels=1, out_channels=2, feature_size=48)
    )
    network = Network(inner, device)

    def run() -> np.ndarray:
        image = torch.from_numpy(stored.array.astype(np.float32))[None, None]
        image = torch.nn.functional.interpolate(image, size=shape, mode="trilinear").clamp(-250, 450)
        logits = sliding_window_inference((image / 350).to(device), PATCH, 1, network, mode="gaussian")
        mask = logits.argmax(1, keepdim=True).to(torch.uint8).cpu()
        return torch.nn.functional.interpolate(mask, size=stored.array.shape, mode="nearest")[0, 0].numpy()

    return _measure(meter, network, tiles_of(network_name, stored.array.shape, stored.spacing), run, None)


def nnunet(name: str, meter: Meter, device: str) -> dict[str, Any]:
    """PlainConvUNet as TotalSegmentator runs it: cubic zoom to 1.5 mm, 128^3 tiles at half steps, labels zoomed back.

    nnU-Net's window, Gaussian and network are its own code; no test-time mirroring.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
    from scipy.ndimage import zoom

    stored = volumes.load(name)
    shared = {key: RESENC_L[key] for key in ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "conv_bias", "norm_op",
                                             "norm_op_kwargs", "nonlin", "nonlin_kwargs")}  # fmt: skip
    network = Network(PlainConvUNet(1, n_conv_per_stage=2, num_classes=CLASSES, n_conv_per_stage_decoder=2, **shared), device)

    def run() -> np.ndarray:
        factors = [s / SPACING for s in stored.spacing[::-1]]
        image = stored.array if factors == [1.0] * 3 else zoom(stored.array.astype(np.float64), factors, order=3)
        image = image.astype(np.float32)
        data = torch.from_numpy((image - image.mean()) / max(float(image.std()), 1e-8))[None]
        size = [max(n, p) for n, p in zip(data.shape[1:], PATCH, strict=True)]
        padded = torch.zeros((1, *size))
        padded[:, : data.shape[1], : data.shape[2], : data.shape[3]] = data
        logits = torch.zeros((CLASSES, *size), dtype=torch.half)
        mass = torch.zeros(size, dtype=torch.half)
        gaussian = compute_gaussian(PATCH, sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu"))
        d, h, w = compute_steps_for_sliding_window(size, PATCH, 0.5)
        for corner in [(i, j, k) for i in d for j in h for k in w]:
            at = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
            logits[(slice(None), *at)] += network(padded[(slice(None), *at)][None].to(device))[0].cpu() * gaussian
            mass[at] += gaussian
        logits /= mass
        labels = logits.argmax(0).to(torch.uint8).numpy()[: data.shape[1], : data.shape[2], : data.shape[3]]
        back = [a / b for a, b in zip(stored.array.shape, labels.shape, strict=True)]
        return labels if back == [1.0] * 3 else zoom(labels, back, order=0)

    return _measure(meter, network, tiles_of("nnunet", stored.array.shape, stored.spacing), run, None)


def nninteractive(name: str, meter: Meter, device: str) -> dict[str, Any]:
    """The shape of nnInteractive: ResEnc-L, image and seven channels of interactions, one 192^3 patch around the click."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    stored = volumes.load(name)
    network = Network(ResidualEncoderUNet(8, num_classes=2, **RESENC_L), device)
    data: list[torch.Tensor] = []

    def prompt() -> np.ndarray:
        centre = [n // 2 for n in stored.array.shape]
        patch = torch.zeros((1, 8, *LARGE_PATCH))
        source = tuple(slice(max(0, c - p // 2), min(n, c + p // 2)) for c, p, n in zip(centre, LARGE_PATCH, stored.array.shape, strict=True))
        piece = data[0][source]
        at = tuple(slice((p - n) // 2, (p - n) // 2 + n) for p, n in zip(LARGE_PATCH, piece.shape, strict=True))
        patch[(0, 0, *at)] = piece
        patch[(0, 4, *(p // 2 for p in LARGE_PATCH))] = 1.0
        mask = network(patch.to(device)).argmax(1)[0].to(torch.uint8).cpu()
        whole = np.zeros(stored.array.shape, np.uint8)
        whole[source] = mask[at].numpy()
        return whole

    def first() -> np.ndarray:
        image = stored.array.astype(np.float32)
        data.append(torch.from_numpy((image - image.mean()) / max(float(image.std()), 1e-8)))
        return prompt()

    return _measure(meter, network, 1, first, prompt)


def voxtell(name: str, meter: Meter, device: str) -> dict[str, Any]:
    """VoxTell's own predictor, network and sliding window (192^3 at half steps, native spacing); the text embedding is given."""
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
    from voxtell.inference.predictor import VoxTellPredictor
    from voxtell.model.voxtell_model import VoxTellModel

    stored = volumes.load(name)
    predictor = VoxTellPredictor.__new__(VoxTellPredictor)  # its __init__ downloads weights; the values below are the ones it sets
    predictor.device = torch.device(device)
    predictor.normalization = ZScoreNormalization(intensityproperties={})
    predictor.tile_step_size, predictor.perform_everything_on_device, predictor.patch_size = 0.5, True, list(LARGE_PATCH)
    model = VoxTellModel(
        input_channels=1, decoder_layer=4, text_embedding_dim=2560, num_maskformer_stages=5, num_heads=32, query_dim=2048,
        project_to_decoder_hidden_dim=2048, deep_supervision=False, **RESENC_L,
    )  # fmt: skip
    decoding = Network(model.decoder, device)  # what one more prompt in the same call would add
    model.decoder = decoding
    network = Network(model, device)
    predictor.network = network
    text = torch.randn(1, 1, 2560, generator=torch.Generator().manual_seed(0)).to(device)
    run = lambda: predictor.predict_single_image(stored.array, text_embeddings=text)  # noqa: E731
    facts = _measure(meter, network, tiles_of("voxtell", stored.array.shape, stored.spacing), run, None)
    return {**facts, "further_prompt_tile_s": decoding.seconds / decoding.calls}
