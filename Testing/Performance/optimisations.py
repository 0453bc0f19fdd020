"""What each optimisation gains, and that its output is the literal one.

``python Testing/Performance/optimisations.py 128 [--device cpu]`` prints JSON: a row per optimisation with seconds without and with it
(interleaved, medians), and a guard: the difference of the outputs and the limit it must keep.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import literal  # noqa: E402
import numpy as np  # noqa: E402
import own  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import volumes  # noqa: E402
from measuring import synchronise  # noqa: E402

from RefSAM3DLib import RefSAM3DEngine  # noqa: E402
from RefSAM3DLib.inference import decode as decoding  # noqa: E402
from RefSAM3DLib.inference.blending import Blending  # noqa: E402
from RefSAM3DLib.inference.decode import tiles_for  # noqa: E402
from RefSAM3DLib.inference.preprocess import Frame  # noqa: E402
from RefSAM3DLib.modeling import mask_decoder  # noqa: E402
from RefSAM3DLib.modeling.mask_decoder import multiply_mask, upsample_linear  # noqa: E402
from RefSAM3DLib.modeling.refsam3d import PromptFeatures  # noqa: E402
from RefSAM3DLib.types import Volume  # noqa: E402

#: Largest difference, relative to the largest value, that counts as rounding.
ROUNDING = 1e-4
#: Image tokens of a large CT's fine tiles, for the parts that only see tokens.
TOKENS = 8192
#: CLIP's slots, which a literal text branch carries along.
SLOTS = 77
Row = dict[str, Any]


class Bench:
    """An engine on a volume, and the clock."""

    def __init__(self, engine: RefSAM3DEngine, volume: Volume, repeats: int = 5, prompts: tuple[str, ...] = own.EIGHT) -> None:
        self.engine, self.volume, self.repeats, self.prompts = engine, volume, repeats, prompts
        self.device = engine.device.type

    def compare(self, name: str, slow: Callable[[], Any], fast: Callable[[], Any], repeats: int | None = None) -> tuple[Row, Any, Any]:
        """Both in turn; the row and the outputs of the last round."""
        seconds: dict[str, list[float]] = {"slow": [], "fast": []}
        outputs: dict[str, Any] = {}
        for _ in range(repeats or self.repeats):
            for label, work in (("slow", slow), ("fast", fast)):
                synchronise(self.device)
                started = time.perf_counter()
                with torch.inference_mode():
                    outputs[label] = work()
                synchronise(self.device)
                seconds[label].append(time.perf_counter() - started)
        slow_s, fast_s = (statistics.median(seconds[label]) for label in ("slow", "fast"))
        return {"name": name, "slow_s": slow_s, "fast_s": fast_s, "gain": slow_s / fast_s}, outputs["slow"], outputs["fast"]

    def fresh(self, prompts: tuple[str, ...] = (own.FIRST,)) -> list[Any]:
        """Prompts on an image that the engine has never seen."""
        self.engine.release()
        self.engine.branches[0].forget_texts()
        return self.engine.segment(self.volume, prompts, probability=True)

    def fine(self) -> Any:
        """The fine view with all its tiles encoded."""
        embedding = self.engine._embedding(self.volume)
        view = embedding.grid(self.engine.checkpoint.config.grid_of(own.FIRST), coarse=False)
        view.encode(range(len(view.layout.starts)))
        return view


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp(min=1e-12))


def guarded(row: Row, kind: str, value: float | None, limit: float | None = ROUNDING, least: bool = False) -> Row:
    """The row with its guard; ``least``: the value must reach the limit, not stay under it."""
    met = None if value is None or limit is None else (value >= limit if least else value <= limit)
    return {**row, "guard": kind, "value": value, "limit": limit, "least": least, "met": met}


def with_slow(undo: Callable[[], literal.Undo], work: Callable[[], Any]) -> Callable[[], Any]:
    """``work`` with one optimisation undone."""

    def slow() -> Any:
        back = undo()
        try:
            return work()
        finally:
            back()

    return slow


def cache(bench: Bench) -> Row:
    """Keeping what was read."""
    bench.fresh()
    embedding = bench.engine._embedding(bench.volume)
    row, slow, fast = bench.compare("Image kept between prompts", bench.fresh, lambda: bench.engine.segment(embedding, [own.FIRST], probability=True), 3)
    unequal = sum(int((a.mask != b.mask).sum()) + int((a.probability != b.probability).sum()) for a, b in zip(slow, fast, strict=True))
    return guarded(row, "unequal voxels of mask and probability", float(unequal), 0.0)


def coarse_to_fine(bench: Bench) -> Row:
    """Looking closely only where the structure can be. The reference is asked for the same box, from all tiles."""
    engine = bench.engine
    bench.fresh()
    row, _slow, _fast = bench.compare("Coarse look first", with_slow(literal.no_coarse_to_fine, bench.fresh), bench.fresh, 1)
    dice = []
    embedding = engine._embedding(bench.volume)
    for name in dict.fromkeys(t.structure for p in engine.resolve(bench.prompts) for t in p.terms):
        part = engine.segment(embedding, [name])[0]
        back = literal.no_coarse_to_fine()
        try:
            whole = engine.segment(embedding, [name])[0]
        finally:
            back()
        if part.box is None:
            dice.append(float(not whole.mask.any()))
            continue
        k0, k1, j0, j1, i0, i1 = part.box
        a, b = part.mask[k0:k1, j0:j1, i0:i1], whole.mask[k0:k1, j0:j1, i0:i1]
        dice.append(2.0 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return guarded({**row, "dice": dice}, "least Dice inside the box (the prompt reads fewer tiles: not exactly 1)", min(dice), 1.0, least=True)


def folding(bench: Bench) -> Row:
    """Eq. VI-VII folded."""
    level = bench.engine.model.cross_attention.levels[0]
    dim = level.query.in_features
    tokens = torch.randn(TOKENS, dim, generator=torch.Generator().manual_seed(0)).to(bench.engine.device)
    prompt = bench.engine.branches[0].text_features([own.FIRST])
    kept = level.cache(tokens)
    row, slow, fast = bench.compare(
        "Cross-attention folded", lambda: level.literal(tokens, prompt.words, prompt.mask), lambda: level(kept, prompt.words, prompt.mask)
    )
    return guarded(row, "largest relative difference", relative(slow, fast))


def joining(bench: Bench) -> Row:
    """The heads of all levels in one attention."""
    module = bench.engine.model.cross_attention
    dim = module.levels[0].query.in_features
    draw = torch.Generator().manual_seed(0)
    kept = module.cache([torch.randn(TOKENS, dim, generator=draw).to(bench.engine.device) for _ in module.levels])
    prompt = bench.engine.branches[0].text_features([own.FIRST])
    joined, words = module.join(kept), module.cache_words(prompt.words)
    row, slow, fast = bench.compare(
        "All levels in one attention",
        lambda: torch.stack(module(kept, prompt.words, prompt.mask)).sum(0),
        lambda: module.total(joined, words, prompt.mask),
    )
    return guarded(row, "largest relative difference", relative(slow, fast))


def real_words(bench: Bench) -> Row:
    """Only the words that are there."""
    view, model = bench.fine(), bench.engine.model
    prompt = dataclasses.replace(bench.engine.branches[0].text_features([own.FIRST]), cache=None)
    more = SLOTS - prompt.words.shape[1]
    padded = PromptFeatures(F.pad(prompt.words, (0, 0, 0, more)), F.pad(prompt.mask, (0, more)), prompt.sentence)
    levels = view.joined_levels(sorted(view.tiles))
    words = lambda what: model.read_joined(levels, what).coarse  # noqa: E731
    row, slow, fast = bench.compare(f"Real words, not {SLOTS} slots", lambda: words(padded), lambda: words(prompt))
    return guarded(row, "largest relative difference", relative(slow, fast))


def kept_words(bench: Bench) -> Row:
    """The words' half of the cross-attention read once per text, not in each of the four readings of a prompt."""
    view, model = bench.fine(), bench.engine.model
    prompt = bench.engine.branches[0].text_features([own.FIRST])
    bare = dataclasses.replace(prompt, cache=None)
    levels = view.joined_levels(sorted(view.tiles)[:2])
    words = lambda what: model.read_joined(levels, what).coarse  # noqa: E731
    row, slow, fast = bench.compare("Words' half kept, two tiles", lambda: words(bare), lambda: words(prompt))
    return guarded(row, "largest relative difference", relative(slow, fast))


def encoder_parts(bench: Bench) -> list[Row]:
    """Fused attention; patches by one product; tiles in pairs."""
    view, model = bench.fine(), bench.engine.model
    batch = torch.stack([view.cut(0), view.cut(len(view.layout.starts) - 1)]).to(bench.engine.device)
    domain = torch.zeros(2, dtype=torch.long, device=bench.engine.device)

    def encode() -> torch.Tensor:
        return model.image_encoder(batch, domain).levels[3]

    def patches() -> torch.Tensor:
        return model.image_encoder.patch_embed(batch)

    def in_pairs() -> torch.Tensor:
        return torch.cat([model.encode_image(part, domain[: len(part)])[1] for part in batch.split(2)])

    def one_by_one() -> torch.Tensor:
        return torch.cat([model.encode_image(part, domain[: len(part)])[1] for part in batch.split(1)])

    rows = []
    for name, slow, fast in (
        ("Fused attention (image encoder)", with_slow(literal.explicit_attention, encode), encode),
        ("Patch embedding as one product", with_slow(literal.convolution_patches, patches), patches),
        ("Tiles in pairs", one_by_one, in_pairs),
    ):
        row, a, b = bench.compare(name, slow, fast)
        rows.append(guarded(row, "largest relative difference", relative(a, b)))
    return rows


def upsampling(bench: Bench) -> Row:
    """Up-sampling as matrix products."""
    maps = torch.randn(32, 8, 8, 8, generator=torch.Generator().manual_seed(0)).to(bench.engine.device)
    slow = with_slow(literal.interpolated_upsampling, lambda: mask_decoder.upsample_linear(maps, 8))
    row, a, b = bench.compare("Up-sampling as products", slow, lambda: upsample_linear(maps, 8))
    return guarded(row, "largest relative difference", relative(a, b))


def blending(bench: Bench) -> Row:
    """Tiles blended once as features, not once per prompt as logits."""
    view, model = bench.fine(), bench.engine.model
    indices, box = sorted(view.tiles), view.padded_box(view.whole_box())
    prompt = bench.engine.branches[0].text_features([t.structure for p in bench.engine.resolve(bench.prompts) for t in p.terms])
    with torch.inference_mode():
        reading = model.read_joined(view.joined_levels(indices), prompt)
        vectors, bias = model.mask_embedding(prompt.sentence, reading.context)

    def features() -> torch.Tensor:
        return multiply_mask(vectors, bias, Blending(view.layout, indices, box).mean([view.tiles[i].pixels for i in indices], 2))

    def logits() -> torch.Tensor:
        return Blending(view.layout, indices, box).mean([multiply_mask(vectors, bias, view.tiles[i].pixels) for i in indices], 1)

    row, slow, fast = bench.compare(f"Features blended, not the logits of {len(bench.prompts)} prompts", logits, features)
    return guarded(row, "largest relative difference", relative(slow, fast))


def placing(bench: Bench) -> Row:
    """Token logits of all tiles to voxels by three products, not up-sampled and blended tile by tile."""
    view = bench.fine()
    indices, box = sorted(view.tiles), view.padded_box(view.whole_box())
    grid = [n // view.patch for n in view.layout.tile_dhw]
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, len(indices) * math.prod(grid), generator=draw).to(bench.engine.device)

    def by_tile() -> torch.Tensor:
        maps = tokens.unflatten(1, (len(indices), *grid))
        return Blending(view.layout, indices, box).mean([upsample_linear(maps[:, n], view.patch) for n in range(len(indices))], 1)

    def at_once() -> torch.Tensor:
        empty = tokens.new_zeros(1, *(box[2 * a + 1] - box[2 * a] for a in range(3)))
        return Blending(view.layout, indices, box).add_tokens(empty, tokens, view.patch)

    row, slow, fast = bench.compare("Token map placed at once, not tile by tile", by_tile, at_once)
    return guarded(row, "largest relative difference", relative(slow, fast))


def resampling(bench: Bench) -> Row:
    """Reading the image: products with small matrices against nnU-Net's cubic spline."""
    from scipy.ndimage import zoom

    from RefSAM3DLib.inference import preprocess

    frame = Frame.of(bench.volume.geometry, bench.engine.checkpoint.config.grid_of(own.FIRST).spacing_mm)
    factors = [m / n for m, n in zip(frame.shape_dhw, bench.volume.array.shape, strict=True)]
    row, _, fast = bench.compare("Resampling as products", lambda: zoom(bench.volume.array.astype(np.float64), factors, order=3),
                                 lambda: frame.read(bench.volume.array), 1)  # fmt: skip
    exact = preprocess.reorient(bench.volume.array, frame.order, frame.flip).astype(np.float64)
    for axis, (n, s, m) in enumerate(zip(frame.oriented.shape_dhw, frame.oriented.spacing_xyz_mm[::-1], frame.shape_dhw, strict=True)):
        matrix = preprocess.axis_matrix(n, s, m, frame.spacing_mm).double().numpy()
        exact = np.moveaxis(np.tensordot(matrix, exact, ([1], [axis])), 0, axis)
    return guarded(row, "largest relative difference to the same filter in double precision", relative(torch.from_numpy(exact), fast))


def export(bench: Bench) -> Row:
    """Only the structure's box is brought back to the image's voxels."""
    view = bench.fine()
    shape = view.frame.shape_dhw
    whole = upsample_linear(torch.randn(1, *(-(-n // 8) for n in shape), generator=torch.Generator().manual_seed(0)), 8)[0][: shape[0], : shape[1], : shape[2]]
    box = tuple(v for n in shape for v in (n // 3, max(n // 3 + 4, n // 2)))
    part = whole[box[0] : box[1], box[2] : box[3], box[4] : box[5]].contiguous()
    everything = (0, shape[0], 0, shape[1], 0, shape[2])
    row, slow, fast = bench.compare("Export in the structure's box", lambda: view.frame.write(whole, everything), lambda: view.frame.write(part, box))
    (a, outer), (b, inner) = slow, fast
    # Within a working voxel of its border a box knows less than the whole: the engine exports one voxel more than the structure.
    rim = [int(np.ceil(1.0 * s)) + 1 for s in (view.frame.spacing_mm / np.array(view.frame.oriented.spacing_xyz_mm[::-1]))]
    at = [slice(inner[2 * n] - outer[2 * n] + rim[n], inner[2 * n + 1] - outer[2 * n] - rim[n]) for n in range(3)]
    own_part = [slice(rim[n], inner[2 * n + 1] - inner[2 * n] - rim[n]) for n in range(3)]
    return guarded(row, "largest relative difference", relative(a[at[0], at[1], at[2]], b[own_part[0], own_part[1], own_part[2]]))


def text_last(bench: Bench) -> Row:
    """The prompt meets finished pixels, against the paper's decoder that runs for every prompt; same tiles, same box."""
    fast_view = bench.fine()
    paper = RefSAM3DEngine(own.random_checkpoint("vit_t", "paper"), bench.device)
    paper_view = paper._embedding(bench.volume).grid(paper.checkpoint.config.grids[0], coarse=False)
    box = fast_view.whole_box()
    box = tuple(v for n in range(3) for v in (box[2 * n + 1] // 3, box[2 * n + 1] * 2 // 3))
    for view in (fast_view, paper_view):
        view.encode(tiles_for(view, box))
    prompts = [e.branches[0].text_features([own.FIRST]) for e in (paper, bench.engine)]
    row, _, _ = bench.compare(
        "Text after the pixel path, not the paper's decoder",
        lambda: decoding.decode(paper_view, tiles_for(paper_view, box), prompts[0], box),
        lambda: decoding.decode(fast_view, tiles_for(fast_view, box), prompts[1], box),
        2,
    )
    return guarded(row, "another function with weights of its own: compared by accuracy, in training/EXPERIMENTS.md", None, None)


def rows(bench: Bench) -> list[Row]:
    """All of them."""
    return [cache(bench), coarse_to_fine(bench), text_last(bench), folding(bench), joining(bench), real_words(bench), kept_words(bench),
            *encoder_parts(bench), upsampling(bench), blending(bench), placing(bench), resampling(bench), export(bench)]  # fmt: skip


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args()
    # On a GPU the guards must see the optimisation's own rounding, not TF32's (5e-4) nor the order of atomic sums.
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    bench = Bench(RefSAM3DEngine.from_default(args.device), own.volume_of(volumes.load(args.volume)))
    sys.stdout.write("\n" + json.dumps({"volume": args.volume, "rows": rows(bench)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
