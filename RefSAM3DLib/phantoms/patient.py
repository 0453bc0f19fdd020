"""Who the phantom is: names, tissue values, the outline of the body and everything that varies with the seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .canvas import TABLE_Z, Pose, table

#: Structures with known truth; a structure's label is its place in this list, counted from 1.
STRUCTURES = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "esophagus", "larynx", "mandible")

#: Training takes seeds below this one; the demo and published numbers take it or those above, so no phantom is in both.
FIRST_HELD_OUT_SEED = 1_000_000
#: Mean HU of tissues and structures. Fat, muscle, brain, brainstem, cord, parotid, mandible and the soft parts of larynx and esophagus
#: are aggregate means over the training cases of OpenKBP (head-and-neck CT, github.com/ababier/open-kbp, MIT licence), measured inside
#: the contours, or at the peaks of the histogram for fat and muscle; they lie 20 to 30 HU below the textbook, so the ``soft_shift`` of
#: a patient moves all soft tissue between the two. The rest (air, bone, cartilage, metal, contrast) is textbook.
TISSUE_HU = {
    "air": -1000.0, "lung": -840.0, "fat": -105.0, "skin": 0.0, "muscle": 20.0, "brain": 10.0, "csf": -6.0, "brainstem": 6.0,
    "spinal cord": 10.0, "parotid gland": -24.0, "esophagus": 20.0, "larynx": 16.0, "gland": 22.0, "thyroid": 75.0, "vessel": 28.0,
    "eye": 0.0, "spongy": 300.0, "cortical": 900.0, "skull": 850.0, "mandible marrow": 280.0, "mandible cortex": 1300.0, "tooth": 1700.0,
    "metal": 3000.0, "cartilage": 130.0, "disc": 70.0,
}  # fmt: skip
_SOFT = ("skin", "muscle", "brain", "csf", "brainstem", "spinal cord", "parotid gland", "esophagus", "larynx", "gland", "vessel", "eye")
#: Spread between patients of the parotid's mean (28 HU in OpenKBP) and of a voxel within one parotid (40 HU), from the same cases.
PAROTID_SPREAD_HU, PAROTID_TEXTURE_HU = 22.0, 30.0

#: Half width, front and back of the skin of head and neck along z; means over OpenKBP up to z = 120, above it a skull's dome.
_WIDTH = table(
    (-140, 74), (-100, 68), (-80, 63), (-60, 62), (-40, 68), (-20, 74), (0, 78), (20, 81), (40, 80), (60, 78), (80, 79),
    (100, 80), (120, 77), (140, 68), (160, 54), (175, 38), (185, 22), (192, 4), (193, 2),
)  # fmt: skip
_FRONT = table(
    (-140, -6), (-100, -10), (-80, -8), (-62, -2), (-48, 18), (-42, 34), (-36, 48), (-28, 54), (-20, 55), (0, 56),
    (20, 52), (40, 48), (60, 40), (80, 37), (100, 33), (120, 25), (140, 12), (160, -8), (175, -26), (185, -42), (193, -60),
)  # fmt: skip
_BACK = table(
    (-140, -165), (-100, -156), (-80, -148), (-60, -141), (-40, -137), (-20, -135), (0, -139), (20, -147), (40, -154),
    (60, -156), (80, -157), (100, -157), (120, -151), (140, -140), (160, -122), (175, -104), (185, -86), (193, -64),
)  # fmt: skip
#: Front and back of the chest.
_CHEST_FRONT = table((-260, 50), (-200, 36), (-160, 13), (-140, 0), (-120, -10), (-100, -20), (-70, -40))
_CHEST_BACK = table((-200, -192), (-140, -187), (-100, -178), (-80, -166), (-60, -150))
#: Middle of the spinal cord along z (mean of OpenKBP).
CORD_Y = table(
    (60, -68), (50, -69), (40, -69), (20, -72), (0, -73), (-20, -73), (-40, -75), (-60, -79), (-80, -86), (-100, -96),
    (-120, -107), (-140, -116), (-160, -121), (-200, -129), (-260, -134),
)  # fmt: skip


@dataclass
class Patient:
    """One draw of everything that varies. All lengths in mm of anatomical space, before the patient's overall ``scale``.

    Attributes:
        rng: source of further draws; solids take theirs in a fixed order so that a seed always gives the same patient.
        hu: tissue values of this patient.
        fat_mm: thickness of the fat under the skin. shoulder_mm: how much the shoulders are raised (negative: drawn down).
        right, left: size of what lies on each side, relative to the average patient; never equal.
        structures: truth structures that this patient has.
    """

    rng: np.random.Generator
    structures: tuple[str, ...]
    hu: dict[str, float] = field(default_factory=dict)
    fat_mm: float = 6.0
    shoulder_mm: float = 0.0
    shoulder_width: float = 235.0
    right: float = 1.0
    left: float = 1.0
    scale: np.ndarray = field(default_factory=lambda: np.ones(3))
    cord_y: np.ndarray = field(default_factory=lambda: CORD_Y)

    @classmethod
    def draw(cls, rng: np.random.Generator, structures: tuple[str, ...]) -> Patient:
        """A patient for a generator."""
        hu = dict(TISSUE_HU)
        shift = rng.uniform(-8.0, 24.0)
        for name in _SOFT:
            hu[name] += shift + rng.normal(0.0, 2.0)
        hu["fat"] += rng.uniform(-15.0, 12.0)
        hu["parotid gland"] += PAROTID_SPREAD_HU * float(np.clip(rng.standard_normal(), -1.8, 1.8))
        bone = rng.uniform(0.8, 1.2)
        for name in ("spongy", "cortical", "skull", "mandible marrow", "mandible cortex"):
            hu[name] *= bone
        if rng.random() < 0.5:  # iodine in half of the scans
            contrast = rng.uniform(60.0, 170.0)
            hu["vessel"] += contrast
            hu["thyroid"] += contrast * 0.5
        size = rng.uniform(0.92, 1.07)
        lean = rng.uniform(0.02, 0.05) * rng.choice([-1.0, 1.0])
        return cls(
            rng=rng, structures=structures, hu=hu, fat_mm=rng.uniform(3.5, 10.0), shoulder_mm=rng.uniform(-22.0, 14.0),
            shoulder_width=rng.uniform(215.0, 250.0), right=1.0 + lean, left=1.0 - lean,
            scale=size * rng.uniform(0.965, 1.035, size=3), cord_y=CORD_Y + rng.normal(0.0, 1.5),
        )  # fmt: skip

    def jitter(self, spread: float = 1.5) -> float:
        """A displacement in mm, at most two spreads."""
        return float(np.clip(self.rng.standard_normal(), -2.0, 2.0)) * spread

    def sides(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """``(sign of x, size)`` of the patient's right, then left side."""
        return (1.0, self.right), (-1.0, self.left)

    def has(self, structure: str) -> bool:
        """Whether a solid that ``needs`` this structure is painted."""
        return not structure or structure in self.structures

    def outline(self, fat: float) -> dict[str, np.ndarray]:
        """Tables of the skin's half width, front and back, for head and neck and for the chest; a fat neck is a wide one."""
        extra = (fat - 6.0) * np.interp(TABLE_Z, (-80.0, 0.0, 60.0), (1.6, 0.8, 0.2)).astype(np.float32)
        tables = {"width": _WIDTH + extra, "front": _FRONT + extra * 0.5, "back": _BACK - extra}
        return tables | {"chest_front": _CHEST_FRONT + extra, "chest_back": _CHEST_BACK - extra}


def draw_pose(patient: Patient, shape_dhw: tuple[int, int, int], spacing_xyz_mm: tuple[float, float, float], centre_mm: np.ndarray) -> Pose:
    """Where the patient lies; ``centre_mm`` is the anatomical point in the middle of the grid (axes to Left, Posterior, Superior)."""
    rng = patient.rng
    pitch, roll, yaw = np.deg2rad(rng.uniform((-4.0, 0.5, 1.0), (4.0, 1.8, 3.0)) * (1.0, *rng.choice([-1.0, 1.0], size=2)))
    (cp, sp), (cr, sr), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (pitch, roll, yaw))
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    linear = np.diag(1.0 / patient.scale) @ about_x @ about_y @ about_z @ np.diag(np.array([-1.0, -1.0, 1.0]) * spacing_xyz_mm)
    middle = (np.array(shape_dhw[::-1]) - 1) / 2.0
    matrix = np.concatenate([linear, (centre_mm - linear @ middle)[:, None]], axis=1)
    neck = np.interp(TABLE_Z, (-160.0, -100.0, -40.0, 40.0, 120.0), (0.0, 0.1, 0.55, 0.95, 1.0))
    return Pose(matrix, bend_x=(rng.normal(0.0, 4.0) * neck).astype(np.float32), bend_y=(rng.normal(0.0, 7.0) * neck).astype(np.float32),
                turn=(np.deg2rad(rng.normal(0.0, 3.5)) * neck).astype(np.float32))  # fmt: skip
