"""Put the published weights of an open_clip text tower into a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..foreign_weights import InflationReport, assign, read_foreign_state

if TYPE_CHECKING:
    from ..modeling.refsam3d import RefSAM3D

_HINT = "the weights of the text tower that the configuration names (safetensors, or a state dict in a .pt or .bin file)"
#: Names that a text tower has at the root of a plain CLIP file; under "text." in a file of open_clip's ``CustomTextCLIP``.
_ROOTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection", "cls_emb")


def load_text_tower(model: RefSAM3D, name_or_file: str | Path) -> InflationReport:
    """Load a text tower from a local file, or by open_clip's "NAME:TAG" (fetched by open_clip into its own cache).

    Names as open_clip publishes them: ``token_embedding.weight``, ``positional_embedding``, ``transformer.resblocks.N....``,
    ``ln_final.*``, ``text_projection``, with or without the prefix ``text.``. The image half of the file is left over.

    Raises:
        CheckpointError: missing, damaged, no text tower, or another one than the configuration names. The model is unchanged then.
    """
    path = _locate(model, name_or_file)
    state = read_foreign_state(path, _HINT)
    prefix = "text." if any(name.startswith("text.") for name in state) else ""
    offered = {name.removeprefix(prefix): name for name in state if name.startswith(prefix) and name.removeprefix(prefix).startswith(_ROOTS)}
    tower = model.text_encoder.tower
    ours = tower.state_dict()
    known = {name: offered[name] for name in ours if name in offered}
    title = model.text_encoder.config.name or "small tower"
    if not known:
        raise CheckpointError(f"'{path}' has none of the names of a text tower (its first name is '{next(iter(state))}'); get {_HINT}.")
    for name, source in known.items():
        if state[source].shape != ours[name].shape:
            raise CheckpointError(
                f"In '{path}', '{source}' has shape {tuple(state[source].shape)}, the configuration's text tower '{title}' has "
                f"{tuple(ours[name].shape)}; set text.name of the configuration to the tower that this file belongs to."
            )
    missing = [name for name in ours if name not in known]
    deeper = [name for name in offered if name not in ours and name.startswith("transformer.")]
    if missing or deeper:
        what = f"lacks '{missing[0]}'" if missing else f"has '{deeper[0]}' beyond it"
        raise CheckpointError(f"'{path}' {what}, so it is not the text tower '{title}' of the configuration; get {_HINT}.")
    assign(tower, {name: state[source] for name, source in known.items()})
    notes = ["'text_projection' maps whole sentences into CLIP's joint space; this network reads the words before it."] if "text_projection" in known else []
    taken = set(known.values())
    return InflationReport(
        title=f"Text tower '{title}' from {path}", used=list(known.values()), left_over=[name for name in state if name not in taken], notes=notes
    )


def _locate(model: RefSAM3D, name_or_file: str | Path) -> Path:
    """A file as it is; "NAME:TAG" through open_clip."""
    path = Path(name_or_file)
    text = str(name_or_file)
    if path.is_file() or "/" in text or path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return path
    import open_clip

    name, _, tag = text.partition(":")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        advice = f"write '{name}:TAG' with one of {', '.join(tags[:6])}" if tags else "give a file, or NAME:TAG as open_clip lists them"
        raise CheckpointError(f"'{text}' is neither a file nor published weights that open_clip knows; {advice}.")
    wanted = model.text_encoder.config.name
    if name != wanted:
        raise CheckpointError(f"The configuration's text tower is '{wanted or 'small, trained here'}', not '{name}'; set text.name to '{name}' first.")
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"open_clip could not fetch '{text}' ({reason}); download the file elsewhere and give its path.") from error
