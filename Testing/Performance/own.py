"""Our contestants: the default checkpoint, the same without coarse-to-fine, the ViT-B size, and the literal, slow path."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import volumes
from measuring import Meter

if TYPE_CHECKING:
    from volumes import Stored

    from RefSAM3DLib import RefSAM3DEngine
    from RefSAM3DLib.checkpoint import Checkpoint
    from RefSAM3DLib.types import Volume

FIRST = "left parotid gland"
#: Asked one after the other, each a structure that no earlier prompt asked for.
NEXT = ("larynx", "mandible", "brainstem", "spinal cord", "right parotid gland")
#: The six present structures, two of them in a second wording: the trained vocabulary has no eight for one image.
EIGHT = (FIRST, *NEXT, "voice box", "lower jaw")
#: Grid of the ViT-B configuration: 1.5 mm, as the peers' networks read.
VARIANTS = ("own", "own-whole", "own-vit_b", "own-literal")


def volume_of(stored: Stored) -> Volume:
    """The engine's view of a stored volume."""
    import numpy as np

    from RefSAM3DLib.geometry import Geometry
    from RefSAM3DLib.types import Modality, Volume

    return Volume(stored.array, Geometry(stored.array.shape, np.array(stored.matrix)), Modality.CT, "file", "benchmark")


def random_checkpoint(config_name: str, decoder: str = "cached") -> Checkpoint:
    """A network of a configuration with random weights; everything counts as present, and about half of all voxels as inside.

    So nothing is saved by finding nothing: every prompt is drawn and exported over its whole box.
    """
    import torch

    from RefSAM3DLib.checkpoint import Calibration, Checkpoint
    from RefSAM3DLib.config import ModelConfig
    from RefSAM3DLib.modeling.build import build_model
    from RefSAM3DLib.phantoms import STRUCTURES
    from RefSAM3DLib.resources import resource_path
    from RefSAM3DLib.text.tokenizer import RESERVED, kept_tokens
    from RefSAM3DLib.text.vocabulary import Vocabulary

    config = ModelConfig.load(resource_path("Configs", f"{config_name}.json"))
    vocabulary = Vocabulary.default().restricted_to(STRUCTURES)
    tokens = None
    if not config.text.name:
        tokens = tuple(kept_tokens([w for name in STRUCTURES for w in vocabulary.all_wordings(name)]))
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=RESERVED + len(tokens)))
    grids = tuple(dataclasses.replace(g, structures=STRUCTURES) for g in config.grids[:1])
    config = dataclasses.replace(config, grids=grids, decoder=dataclasses.replace(config.decoder, kind=decoder))
    torch.manual_seed(0)
    network = build_model(config)
    with torch.no_grad():
        if network.mask_embedding is not None:
            network.mask_embedding.layers[2].bias[-1] = 0.0
        if network.paper_decoder is not None:
            network.paper_decoder.final.bias.zero_()
    calibration = {g.name: Calibration(scale=0.01, bias=5.0) for g in grids}
    return Checkpoint(config, vocabulary, tokens, network.state_dict(), calibration, {"name": config.name}, sha256="0" * 64)


def engine_of(variant: str, device: str) -> RefSAM3DEngine:
    """The engine of a contestant, its slow paths switched on."""
    from RefSAM3DLib import RefSAM3DEngine

    if variant == "own-vit_b":
        return RefSAM3DEngine(random_checkpoint("vit_b"), device)
    if variant == "own-literal":
        import literal

        literal.everything()
        return RefSAM3DEngine(random_checkpoint("vit_t", "paper"), device)
    if variant == "own-whole":
        import literal

        literal.no_coarse_to_fine()
    return RefSAM3DEngine.from_default(device)


def boxes_from_truth(stored: Stored) -> None:
    """Random weights find no box: after a full coarse look, take the true one in its place."""
    from RefSAM3DLib.inference import localize, session

    look = localize.localize
    asked: list[str] = []
    place = session.PromptSession._look

    def remember(self: Any, terms: list[Any]) -> None:
        asked[:] = list(dict.fromkeys(t.term.structure for t in terms))
        place(self, terms)

    def placed(views: Any, prompts: Any) -> list[localize.Finding]:
        look(views, prompts)
        return [localize.Finding(0.0, coarse_box(views[0], stored.box(name))) for name in asked]

    session.PromptSession._look = remember  # type: ignore[method-assign]
    session.localize = placed


def coarse_box(view: Any, native: tuple[int, int, int, int, int, int] | None) -> Any:
    """A native box in voxels of a coarse view."""
    import numpy as np

    if native is None:
        return None
    box = view.frame.oriented_box_of(native)
    points = np.array([(i, j, k, 1.0) for k in box[0:2] for j in box[2:4] for i in box[4:6]]) - [0.5, 0.5, 0.5, 0]
    working = (points @ np.linalg.inv(view.frame.to_native).T)[:, 2::-1]
    out: list[int] = []
    for a in range(3):
        low = math.floor(working[:, a].min()) - view.origin[a]
        out += [max(0, low), min(view.values.shape[a], max(math.ceil(working[:, a].max()) + 1 - view.origin[a], low + 1))]
    return tuple(out)


def fine_tiles(engine: RefSAM3DEngine) -> int:
    """Fine tiles encoded for the images in memory."""
    return sum(g.encoded for e in engine._embeddings.values() for (_, coarse, *_), g in e.grids.items() if not coarse)


def all_tiles(engine: RefSAM3DEngine) -> int:
    """Tiles of every kind."""
    return sum(g.encoded for e in engine._embeddings.values() for g in e.grids.values())


class Gaps:
    """A ``cancel`` that never cancels, and the longest time between two questions: the worst wait of somebody who cancels."""

    def __init__(self) -> None:
        self.last, self.longest = time.perf_counter(), 0.0

    def __call__(self) -> bool:
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now
        return False


def contest(variant: str, name: str, meter: Meter, engine: RefSAM3DEngine) -> dict[str, Any]:
    """First prompt, next prompts (tiles missing, tiles cached), eight prompts, absent ones; facts beside the times."""
    stored = volumes.load(name)
    volume = volume_of(stored)
    if variant == "own-vit_b":
        boxes_from_truth(stored)
    if variant == "own-literal":
        return _contest_literal(meter, engine, volume)
    meter.start_memory()
    gaps = Gaps()
    meter.timed("first", lambda: engine.segment(volume, [FIRST], cancel=gaps))
    gaps()
    facts: dict[str, Any] = {"cancel_gap_s": gaps.longest, "first_tiles": all_tiles(engine)}
    embedding = engine._embedding(volume)  # as embed() returns it: the voxels are not hashed again
    facts["next"] = [_next(meter, engine, embedding, structure, "missing") for structure in NEXT]
    if variant in ("own-vit_b", "own-whole"):
        keep: tuple[str, ...] = NEXT[:2]
    else:
        keep = NEXT
    for structure in keep:
        engine.branches[0].forget_texts()  # the text is read anew, as for a structure that was never asked for
        facts["next"].append(_next(meter, engine, embedding, structure, "cached"))
    facts["cache_mb"] = engine.cached_bytes / (1 << 20)
    facts["memory"] = meter.memory()
    engine.branches[0].forget_texts()
    meter.timed("eight_cached", lambda: engine.segment(embedding, EIGHT))
    if variant != "own":
        return facts
    engine.release()
    meter.timed("eight_missing", lambda: engine.segment(volume, EIGHT))
    if volumes.ABSENT not in stored.present() and name != "real":  # what is not contoured in the real CT is unknown, not absent
        for label, structure in (("absent", volumes.ABSENT), ("absent_elsewhere", volumes.ELSEWHERE)):
            facts[label] = _absent(meter, engine, volume, label, structure)
    return facts


def _absent(meter: Meter, engine: RefSAM3DEngine, volume: Volume, label: str, structure: str) -> dict[str, Any]:
    """A first prompt that the image cannot answer."""
    engine.release()
    result = meter.timed(label, lambda: engine.segment(volume, [structure]))[0]
    return {"structure": structure, "verdict": result.verdict.value, "fine_tiles": fine_tiles(engine)}


def _next(meter: Meter, engine: RefSAM3DEngine, embedding: Any, structure: str, tiles: str) -> dict[str, Any]:
    before, label = all_tiles(engine), f"next_{tiles}:{structure}"
    meter.timed(label, lambda: engine.segment(embedding, [structure]))
    return {"structure": structure, "tiles": tiles, "new_tiles": all_tiles(engine) - before, **meter.times[label]}


def _contest_literal(meter: Meter, engine: RefSAM3DEngine, volume: Volume) -> dict[str, Any]:
    meter.start_memory()
    meter.timed("first", lambda: engine.segment(volume, [FIRST]))
    facts: dict[str, Any] = {"first_tiles": all_tiles(engine), "next": []}
    engine.release()
    engine.branches[0].forget_texts()
    meter.timed(f"next_missing:{NEXT[0]}", lambda: engine.segment(volume, [NEXT[0]]))
    facts["next"].append({"structure": NEXT[0], "tiles": "missing", "new_tiles": all_tiles(engine), **meter.times[f"next_missing:{NEXT[0]}"]})
    facts["memory"] = meter.memory()
    return facts


Contest = Callable[[str, str, Meter, Any], dict[str, Any]]
