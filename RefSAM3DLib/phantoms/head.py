"""Solids of the head: skin and fat, skull, brain, face, mandible, teeth, parotid glands."""

from __future__ import annotations

import numpy as np

from .canvas import TABLE_Z, Distance, Local, Solid, table
from .patient import PAROTID_TEXTURE_HU, STRUCTURES, Patient
from .shapes import capsule, ellipsoid, elliptic_distance, smooth_min, tube

EVERYWHERE = (-np.inf, np.inf, -np.inf, np.inf, -np.inf, np.inf)
#: Height of the skull's floor by y: occiput, foramen magnum, clivus, sella, anterior fossa.
_FLOOR_Y = np.array([-170, -140, -122, -100, -75, -65, -55, -47, -10, 20], dtype=np.float32)
_FLOOR_Z = np.array([78, 50, 32, 22, 21, 27, 46, 64, 70, 86], dtype=np.float32)


def label_of(name: str) -> int:
    """A structure's number in the truth."""
    return STRUCTURES.index(name) + 1


def skin_distance(patient: Patient) -> Distance:
    """Signed distance to the skin: head and neck, joined to the chest by the slope of the shoulders, and a nose."""
    t = patient.outline(patient.fat_mm)
    width, half, middle = t["width"], (t["front"] - t["back"]) / 2, (t["front"] + t["back"]) / 2
    # Chins are narrower than the backs of heads, crowns are not.
    taper = np.interp(TABLE_Z, (-60.0, -30.0, 20.0, 60.0, 100.0), (0.0, 0.25, 0.22, 0.12, 0.0)).astype(np.float32)
    chest_half, chest_middle = (t["chest_front"] - t["chest_back"]) / 2, (t["chest_front"] + t["chest_back"]) / 2
    low, wide, lean = patient.shoulder_mm, patient.shoulder_width, patient.right - 1.0
    dome = np.maximum(TABLE_Z - 192.0, -400.0).astype(np.float32)

    def distance(at: Local) -> np.ndarray:
        v = (at.y - at.at(middle)) / at.at(half)
        w = at.at(width) * (1.0 - at.at(taper) * np.clip(v, -0.3, 1.0))
        radius = np.sqrt((at.x / w) ** 2 + v * v)
        d = np.maximum((radius - 1.0) * np.minimum(w, at.at(half)), at.at(dome))
        if float(at.z.max()) > 20.0 and float(at.z.min()) < 70.0:
            d = smooth_min(d, elliptic_distance((at.x - 1.0, 13.0), (at.y - 50.0, 17.0), (at.z - 40.0, 19.0)), 8.0)
        if float(at.z.min()) < -40.0:
            side = np.abs(at.x)
            u = at.x / np.float32(wide)
            v = (at.y - at.at(chest_middle)) / (at.at(chest_half) * (1.0 - 0.35 * u * u))
            chest = (np.sqrt(np.sqrt(u**4 + v**4)) - 1.0) * at.at(chest_half)
            top = np.float32(-72.0 + low) - 0.16 * (side - 60.0) + np.float32(lean * 1.5) * at.x
            over = at.z - top
            chest = np.maximum(chest, over) + np.clip(18.0 - np.abs(chest - over), 0.0, None) ** 2 / 72.0
            d = smooth_min(d, chest, 28.0)
        return d

    return distance


def body(patient: Patient) -> Solid:
    """Skin, fat under it, then muscle with fat between its bellies."""
    hu = patient.hu
    skin, fat, muscle = hu["skin"], hu["fat"], hu["muscle"]
    thickness = patient.fat_mm

    def tissue(at: Local, d: np.ndarray) -> np.ndarray:
        # More fat where muscles are few: between the muscles of the neck and in the cheeks.
        lean = np.clip((1.25 - at.coarse) * 1.3 - 0.3 * at.fine, 0.15, 1.0)
        deep = np.clip((-d - thickness) * 0.7 - 0.8 * at.coarse, 0.0, 1.0)
        value = fat + (muscle - fat) * lean * deep + 5.0 * at.fine
        return np.where(d > -2.0, np.float32(skin), value)

    return Solid(EVERYWHERE, skin_distance(patient), tissue)


def skull_and_brain(patient: Patient) -> list[Solid]:
    """Vault and floor of the skull, brain with ventricles, cisterns, the brainstem in them."""
    hu, jitter = patient.hu, patient.jitter
    skin = skin_distance(patient)
    scalp, bone = 5.0 + patient.fat_mm * 0.15, 6.0 + jitter(0.6)

    def outside_floor(at: Local) -> np.ndarray:
        # Bowls: the floor is highest near the middle in front (sella) and lowest there behind (foramen magnum).
        side = np.abs(at.x)
        front = np.clip((at.y + 60.0) / 15.0, 0.0, 1.0) * np.clip(1.0 - np.abs(at.y + 40.0) / 45.0, 0.0, 1.0)
        bowl = 0.0035 * side**2 * (1.0 - front) - front * np.clip(side - 12.0, 0.0, 14.0)
        return np.interp(at.y, _FLOOR_Y, _FLOOR_Z).astype(np.float32) + bowl + 1.5 * at.coarse - at.z

    def vault(at: Local) -> np.ndarray:
        return np.maximum(skin(at) + np.float32(scalp), (outside_floor(at) - 5.0) * 0.75)

    def cavity(at: Local) -> np.ndarray:
        return np.maximum(skin(at) + np.float32(scalp + bone), outside_floor(at) * 0.75)

    def vault_hu(at: Local, d: np.ndarray) -> np.ndarray:
        return hu["skull"] + 150.0 * at.fine - 350.0 * np.clip(1.0 - np.abs(d + bone / 2) / 2.0, 0.0, 1.0)

    def brain_hu(at: Local, d: np.ndarray) -> np.ndarray:
        return hu["brain"] + 3.0 * at.fine - 12.0 * np.clip(1.0 + d / 3.0, 0.0, 1.0)

    box = (-95.0, 95.0, -175.0, 60.0, 14.0, 200.0)
    solids = [Solid(box, vault, vault_hu), Solid(box, cavity, brain_hu)]
    for sign, size in patient.sides():
        solids.append(ellipsoid((sign * 14, -60 + jitter(), 112 + jitter()), (7 * size, 30, 9), hu["csf"]))
        solids.append(ellipsoid((sign * 22, -70 + jitter(), 100), (9, 6 * size, 12), hu["csf"]))
        solids += _temporal_bone(patient, sign, size)
    shift = jitter(1.0)
    y = table((20, -72), (40, -72), (60, -69), (80, -65)) + shift
    x = table((20, 0), (90, shift))
    rx = table((20, 7.5), (30, 9), (40, 11.5), (50, 15), (58, 17.5), (66, 17.5), (74, 15), (81, 13)) * (0.96 + 0.03 * shift)
    ry = table((20, 7), (30, 8.5), (40, 10.5), (50, 12.5), (58, 13.5), (66, 12.5), (74, 11), (81, 9.5))
    top = 79.0 + jitter(2.0)
    solids.append(tube(x, y + 2, rx + 5, ry + 4, (22.0, top + 4), hu["csf"] - 4.0, needs="brainstem"))
    solids.append(tube(x, y, rx, ry, (22.0, top), lambda at, d: hu["brainstem"] + 3.0 * at.fine, label_of("brainstem"), needs="brainstem"))
    return solids


def _temporal_bone(patient: Patient, sign: float, size: float) -> list[Solid]:
    """Petrous bone, mastoid with its cells, ear canal."""
    hu, jitter = patient.hu, patient.jitter

    def cells(at: Local, d: np.ndarray) -> np.ndarray:
        return np.where((at.fine > 0.0) & (d < -2.0), np.float32(-700.0), np.float32(hu["skull"] * 0.7))

    dy = jitter()
    return [
        ellipsoid((sign * 42, -66 + dy, 45), (30, 8, 9), hu["skull"] * 1.1),
        ellipsoid((sign * 60 * size, -76 + dy, 36), (12 * size, 14, 21), cells),
        capsule((sign * 50, -60 + dy, 44), (sign * 88, -62 + dy, 43), 3.2, hu["air"]),
        ellipsoid((sign * 81 * size, -66 + dy, 46), (4, 14, 26), hu["muscle"] - 20.0),
    ]


def face(patient: Patient) -> list[Solid]:
    """Orbits, nose, sinuses, cheek bones, upper jaw, tongue, muscles of mastication, pharynx above the larynx."""
    hu, jitter = patient.hu, patient.jitter
    muscle, fat = hu["muscle"] + 12.0, hu["fat"]

    def shell(at: Local, d: np.ndarray) -> np.ndarray:
        return np.where(d > -1.6, np.float32(hu["spongy"]), np.float32(hu["air"]))

    def airy(at: Local, d: np.ndarray) -> np.ndarray:
        return np.where(at.fine > 0.7, np.float32(60.0), np.float32(hu["air"]))

    solids: list[Solid] = []
    for sign, size in patient.sides():
        y, z = jitter(), jitter()
        solids += [
            ellipsoid((sign * 33, 11 + y, 79 + z), (20, 24, 19), hu["skull"] * 0.8),
            ellipsoid((sign * 33, 13 + y, 79 + z), (17, 25, 16.5), fat),
            ellipsoid((sign * 33, 19 + y, 79 + z), (12, 12, 12 * size), hu["eye"]),
            capsule((sign * 33, 9 + y, 79 + z), (sign * 17, -15 + y, 78 + z), 2.5, hu["eye"]),
            capsule((sign * 64 * size, -38 + y, 51), (sign * 54, 18 + y, 49 + z), 3.5, hu["cortical"]),
            ellipsoid((sign * 27, 19 + y, 44 + z), (18 * size, 19, 19), shell),
            ellipsoid((sign * 60 * size, -16 + y, 9), (7, 19, 27), muscle),
            ellipsoid((sign * 39 * size, -24 + y, 8), (6.5, 13, 24), muscle),
            ellipsoid((sign * 40, -24 + y, 42), (14, 14, 8), muscle),
            ellipsoid((sign * 62, -14 + y, 68), (6, 22, 24), muscle),
            ellipsoid((sign * 31 * size, -14 + y, -30), (8.5, 14, 11), hu["gland"]),
        ]
    drift = jitter()
    arch = _arch(patient, 42.0, 49.0)

    def upper_jaw(at: Local) -> np.ndarray:
        alveolar = np.maximum(np.abs(arch(at)) - 6.0, np.abs(at.z - 25.0) - 7.0)
        palate = np.maximum(np.maximum(arch(at), np.abs(at.z - 24.0) - 2.5), -25.0 - at.y)
        return np.minimum(alveolar, palate)

    return [
        *solids,
        Solid((-60, 60, -30, 62, 17, 33), upper_jaw, hu["spongy"] * 1.4),
        ellipsoid((drift, 8, 44), (15, 38, 19), airy),
        ellipsoid((drift * 0.5, 10, 44), (1.5, 36, 18), 120.0),
        ellipsoid((drift, -6, 70), (13, 22, 10), shell),
        ellipsoid((1.0, 2 + drift, -2), (24, 37, 18), lambda at, d: hu["muscle"] + 8.0 + 8.0 * at.coarse),
        ellipsoid((2.0, -34, 38), (13, 8, 14), hu["air"]),
        tube(table((-60, drift), (60, 0)), table((-52, -38), (-30, -42), (0, -44), (40, -40)),
             table((-52, 9), (-30, 12), (0, 10 + drift), (30, 12)), table((-52, 6), (-30, 7), (0, 4.5), (30, 6)), (-52.0, 40.0), hu["air"]),
    ]  # fmt: skip


def _arch(patient: Patient, front: float, half_width: float) -> Distance:
    """Signed distance to a parabola in the axial plane that opens backwards: the row of teeth (negative towards the tongue).

    At 86 mm behind its tip it is ``half_width`` from the middle, more on the patient's larger side.
    """
    bend_right, bend_left = (86.0 / (half_width * size) ** 2 for size in (patient.right, patient.left))

    def distance(at: Local) -> np.ndarray:
        bend = np.where(at.x > 0, np.float32(bend_right), np.float32(bend_left))
        return (bend * at.x**2 + at.y - np.float32(front)) / np.sqrt((2.0 * bend * at.x) ** 2 + 1.0)

    return distance


def mandible(patient: Patient) -> Solid:
    """Body along the arch, a ramus on each side with condyle and coronoid process; marrow inside a shell."""
    hu, jitter = patient.hu, patient.jitter
    arch, thick = _arch(patient, 41.0, 50.0), 4.9 + jitter(0.5)
    lower_y = np.array([-50, -30, 10, 45], dtype=np.float32)
    lower_z = np.array([-10, -17, -27, -34], dtype=np.float32) + np.float32(jitter(1.0))
    tall = jitter(2.0)

    def distance(at: Local) -> np.ndarray:
        size = np.where(at.x > 0, np.float32(patient.right), np.float32(patient.left))
        lower = np.interp(at.y, lower_y, lower_z).astype(np.float32)
        bone = np.maximum(np.abs(arch(at)) - np.float32(thick), np.maximum(lower - at.z, at.z - (lower * 0.35 + 8.0)))
        bone = np.maximum(bone, -34.0 - at.y)
        plate = np.abs(np.abs(at.x) - size * (46.0 + 0.11 * (at.z + 10.0))) - np.float32(4.2)
        middle = -26.0 - 0.17 * at.z
        # The upper edge of the ramus is a notch between two processes, the condyle behind being the higher one.
        upper = np.float32(32.0 + tall) + 0.10 * np.clip(np.abs(at.y - middle) - 4.0, 0.0, None) ** 2
        upper = np.minimum(upper, np.where(at.y < middle, np.float32(56.0 + tall), np.float32(46.0 + tall)))
        ramus = np.maximum(np.maximum(plate, np.abs(at.y - middle) - 15.5), np.maximum(-17.0 - at.z, at.z - upper))
        return smooth_min(bone, ramus, 4.0)

    def value(at: Local, d: np.ndarray) -> np.ndarray:
        inside = np.clip((-d - 1.6) * 0.8, 0.0, 1.0)
        return hu["mandible cortex"] + (hu["mandible marrow"] + 120.0 * at.fine - hu["mandible cortex"]) * inside

    return Solid((-70, 70, -55, 52, -40, 64), distance, value, label_of("mandible"), "mandible")


def _tooth_row(arch: Distance, z0: float, z1: float, phase: float, lost: np.ndarray) -> Distance:
    """Crowns along an arch; ``phase`` shifts them, at the angles ``lost`` one is missing."""

    def distance(at: Local) -> np.ndarray:
        angle = np.arctan2(at.x, 60.0 - at.y + 1e-3)
        row = np.maximum(np.maximum(np.abs(arch(at)) - 4.0, -10.0 - at.y), np.abs(at.z - (z0 + z1) / 2) - (z1 - z0) / 2)
        for where in lost:
            row = np.maximum(row, 3.0 - np.abs(angle - where) * 40.0)
        return np.maximum(row, (0.1 - np.cos(26.0 * angle + phase)) * 4.0 - 2.0)

    return distance


def teeth(patient: Patient) -> tuple[list[Solid], np.ndarray]:
    """Two rows of teeth with gaps, and where there is metal: (M, 3) anatomical mm (M may be 0)."""
    rng, hu = patient.rng, patient.hu
    solids: list[Solid] = []
    spots: list[tuple[float, float, float]] = []
    for front, half_width, z0, z1, needs in ((38.0, 47.0, -3.0, 8.0, "mandible"), (42.0, 49.0, 8.5, 19.0, "")):
        phase, lost = rng.uniform(0, 6.0), rng.uniform(-1.0, 1.0, size=2)
        row = _tooth_row(_arch(patient, front, half_width), z0, z1, phase, lost)
        solids.append(Solid((-52, 52, -12, 50, z0 - 1, z1 + 1), row, hu["tooth"], 0, needs))
        for _ in range(int(rng.integers(0, 4))):
            y, sign = rng.uniform(-8.0, 25.0), rng.choice([-1.0, 1.0])
            if patient.has(needs):
                spots.append((sign * half_width * float(np.sqrt((front - y) / 86.0)), y, (z0 + z1) / 2))
    solids += [ellipsoid(spot, (3.0, 3.0, 3.5), hu["metal"]) for spot in spots]
    return solids, np.array(spots, dtype=np.float64).reshape(-1, 3)


def parotid(patient: Patient, sign: float, size: float) -> Solid:
    """Superficial lobe over masseter and mandible, deep lobe behind the ramus, a tail below; fatty, mottled."""
    name = "right parotid gland" if sign > 0 else "left parotid gland"
    jitter, rng = patient.jitter, patient.rng
    size = size * float(np.clip(1.0 + 0.12 * rng.standard_normal(), 0.8, 1.2))
    dx, dy, dz = jitter(1.5), jitter(3.0), jitter(4.0)
    mean, own = patient.hu["parotid gland"], jitter(6.0)

    def distance(at: Local) -> np.ndarray:
        x, y, z = at.x * np.float32(sign) - np.float32(dx), at.y - np.float32(dy), at.z - np.float32(dz)
        superficial = elliptic_distance((x - 63.0, 9.0 * size), (y + 42.0 + 0.15 * z, 18.5 * size), (z - 15.0, 24.5 * size))
        deep = elliptic_distance((x - 52.0, 12.0 * size), (y + 54.0, 10.5 * size), (z - 17.0, 17.0 * size))
        tail = elliptic_distance((x - 60.0, 8.0 * size), (y + 52.0, 10.0 * size), (z + 2.0, 13.0 * size))
        return smooth_min(smooth_min(superficial, deep, 8.0), tail, 6.0) + 0.9 * at.coarse

    def value(at: Local, d: np.ndarray) -> np.ndarray:
        return mean + own + 0.65 * PAROTID_TEXTURE_HU * at.fine + 0.4 * PAROTID_TEXTURE_HU * at.coarse

    low, high = sorted((sign * 32.0, sign * 84.0))
    return Solid((low, high, -80, -8, -32, 54), distance, value, label_of(name), name)
