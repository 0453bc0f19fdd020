"""Model configuration: frozen, strict, stored inside the checkpoint. The only home of every architectural default."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """SAM's ViT in 3D with adapters (method: image processor, Eq. I, IV-V)."""

    in_channels: int = 3
    patch_size: int = 8
    dim: int = 192
    depth: int = 8
    num_heads: int = 6
    mlp_ratio: float = 4.0
    adapter_ratio: float = 0.5
    #: Side of an attention window in tokens; every other block is shifted by half of it.
    window_size: int = 8
    #: Extents (D, H, W) in tokens of the position tables; other grids interpolate them.
    position_grid: tuple[int, int, int] = (8, 8, 8)
    #: Base width of the convolutional stem that feeds tokens and skips; 0 leaves SAM's patch embedding alone.
    stem_channels: int = 16
    #: Channels of the features V'_i that the necks hand to the text.
    level_dim: int = 96


@dataclass(frozen=True)
class TextEncoderConfig:
    """CLIP text tower through open_clip (Eq. II): a published one by ``name``, or a small one by its sizes."""

    #: open_clip model name ("ViT-B-16"); empty for the small tower below.
    name: str = ""
    width: int = 128
    heads: int = 4
    layers: int = 2
    #: Tokens per prompt, start and end included.
    context_length: int = 24
    #: Rows of the token table; for the small tower: two reserved rows (padding, unknown) and the kept tokens.
    vocab_size: int = 2


@dataclass(frozen=True)
class PromptConfig:
    """Cross-modal projector (Eq. III) and hierarchical cross-attention (Eq. VI-VII)."""

    prompt_dim: int = 128
    attention_heads: int = 4
    attention_dim: int = 96
    #: Channels of the fused maps P_i.
    fused_dim: int = 96


@dataclass(frozen=True)
class DecoderConfig:
    """``paper``: prompt-conditioned transposed convolutions; ``cached``: prompt-free pixels times a mask embedding."""

    kind: str = "cached"
    #: cached: base width of the pixel path (stride 2 has twice this); paper: width at full resolution.
    channels: int = 16
    #: cached: channels of the pixel features that the mask embedding multiplies, per sub-voxel position.
    pixel_dim: int = 16
    #: cached: channels of one more convolution at stride 2 that the pixel features are read from beside its input; 0 leaves it out.
    detail_channels: int = 0
    #: cached: that convolution also reads the raw voxels, as the paper's last one does.
    detail_reads_voxels: bool = False
    #: cached: inner channels of a residual unit of two more convolutions after that one; 0 leaves it out.
    detail_residual: int = 0
    #: paper: layers of SAM's two-way transformer.
    two_way_depth: int = 2

    def __post_init__(self) -> None:
        if self.kind not in ("paper", "cached"):
            raise ConfigError(f"Decoder kind '{self.kind}' is unknown; use 'paper' or 'cached'.")
        for name in ("detail_reads_voxels", "detail_residual"):
            if getattr(self, name) and not self.detail_channels:
                raise ConfigError(f"The decoder's {name} needs detail_channels of 1 or more; set both or neither.")


@dataclass(frozen=True)
class GridConfig:
    """A working grid: the voxel size at which one family of structures is read.

    Attributes:
        name: e.g. "head_neck". spacing_mm: isotropic. tile_dhw: voxels, multiples of the patch size.
        coarse_spacing_mm, coarse_tile_dhw: of the localisation pass over the whole volume.
        modalities: what it was trained on. structures: names it may be asked for.
        extent_mm: (least, greatest) field of view per axis (D, H, W) seen in training, body box where ``crop_body``.
        crop_body: read only the box of the body (CT: above -500 HU).
    """

    name: str
    spacing_mm: float
    tile_dhw: tuple[int, int, int]
    coarse_spacing_mm: float
    coarse_tile_dhw: tuple[int, int, int]
    modalities: tuple[str, ...]
    structures: tuple[str, ...]
    extent_mm: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.0, 0.0, 0.0), (1e9, 1e9, 1e9))
    crop_body: bool = False


@dataclass(frozen=True)
class IntensityConfig:
    """How voxels become the network's channels: one window per channel, each mapped to [-1, 1] and clipped."""

    #: CT, HU: soft tissue; a narrow one, because parotid and muscle differ by 30 HU; air to bone.
    ct_windows_hu: tuple[tuple[float, float], ...] = ((-250.0, 450.0), (-60.0, 140.0), (-1000.0, 1500.0))
    #: MR, percentiles of the volume.
    mr_percentiles: tuple[tuple[float, float], ...] = ((0.5, 99.5), (5.0, 95.0), (0.5, 99.95))
    #: PET, percentiles of the volume: uptake is a matter of the hottest voxels.
    pet_percentiles: tuple[tuple[float, float], ...] = ((0.5, 99.5), (50.0, 99.0), (0.5, 99.99))


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a network and to feed it."""

    name: str
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    intensity: IntensityConfig = field(default_factory=IntensityConfig)
    grids: tuple[GridConfig, ...] = ()
    #: Read the image and its left-right mirror and average: twice the encoding, and exact symmetry of left and right.
    mirror_views: bool = True

    def __post_init__(self) -> None:
        patch = self.image.patch_size
        if patch < 4 or patch & (patch - 1):  # the pixel path ends at stride 2 and needs at least one step
            raise ConfigError(f"Patch size {patch} is no power of two from 4 on; use 4, 8 or 16.")
        for grid in self.grids:
            for tile in (grid.tile_dhw, grid.coarse_tile_dhw):
                if any(n % patch for n in tile):
                    raise ConfigError(f"Tile {tile} of grid '{grid.name}' is no multiple of the patch size {patch}; change one of them.")

    @property
    def domains(self) -> int:
        """Number of learned scale embeddings: a fine and a coarse one per grid (at least one)."""
        return max(1, 2 * len(self.grids))

    def domain(self, grid: str, coarse: bool) -> int:
        """Index of the scale embedding of a grid."""
        return 2 * [g.name for g in self.grids].index(grid) + int(coarse)

    def grid(self, name: str) -> GridConfig:
        """Grid by name."""
        for grid in self.grids:
            if grid.name == name:
                return grid
        raise ConfigError(f"Grid '{name}' is unknown; this model has {', '.join(g.name for g in self.grids) or 'none'}.")

    def grid_of(self, structure: str) -> GridConfig:
        """The grid on which a structure is read."""
        for grid in self.grids:
            if structure in grid.structures:
                return grid
        raise ConfigError(f"No grid of model '{self.name}' holds '{structure}'.")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Strict inverse of :meth:`to_dict`."""
        return from_dict(cls, values)

    @classmethod
    def load(cls, path: Path) -> ModelConfig:
        """From a JSON file of ``Resources/Configs``."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"'{path}' is no readable JSON file ({error}); check it, or take a configuration of Resources/Configs.") from error
        return cls.from_dict(values)


def from_dict(cls: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass from plain values, refusing unknown keys with the nearest known one.

    Raises:
        ConfigError: unknown or missing key, or a value of the wrong shape.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"Configuration '{where or cls.__name__}' must be a table of keys, not {type(values).__name__}.")
    hints = get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(sorted(known))}."
            raise ConfigError(f"Unknown configuration key '{where}{key}'{hint}")
    try:
        return cls(**{key: _convert(hints[key], value, f"{where}{key}.") for key, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"Configuration '{where or cls.__name__}' is incomplete: {error}.") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"Configuration '{where[:-1]}' must be a list, not {value!r}.")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, where) for v in value)
        if len(args) != len(value):
            raise ConfigError(f"Configuration '{where[:-1]}' needs {len(args)} values, not {len(value)}.")
        return tuple(_convert(a, v, where) for a, v in zip(args, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(f"Configuration '{where[:-1]}' must be of type {hint.__name__}, not {value!r}.")
    return value
