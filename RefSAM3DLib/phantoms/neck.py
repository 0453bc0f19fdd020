"""Solids of neck and chest: spine and cord, muscles, vessels, larynx, trachea, esophagus, shoulders, lungs."""

from __future__ import annotations

import numpy as np

from .canvas import Local, Solid, table
from .head import label_of
from .patient import Patient
from .shapes import Point, capsule, column, column_box, ellipsoid, elliptic_distance, smooth_min, tube


def spine(patient: Patient) -> list[Solid]:
    """Vertebrae with discs, arches and spinous processes around the canal, the cord in it."""
    hu, jitter = patient.hu, patient.jitter
    cord, phase = patient.cord_y, float(patient.rng.uniform(0, 6.28))
    ahead = table((20, 13), (0, 15), (-60, 17), (-120, 19), (-200, 22))
    width, depth = table((20, 9), (0, 12), (-60, 14), (-140, 16), (-220, 18)), table((20, 6), (0, 8), (-60, 9), (-140, 11), (-220, 13))
    bow = table((30, 0), (-60, jitter(1.5)), (-140, jitter(3.0)))
    period = table((20, 2 * np.pi / 16), (-80, 2 * np.pi / 17.5), (-200, 2 * np.pi / 21))

    def level(at: Local) -> np.ndarray:
        """1 in the middle of a vertebra, -1 in the middle of a disc."""
        return np.cos(at.z * at.at(period) + phase)

    def vertebra_hu(at: Local, d: np.ndarray) -> np.ndarray:
        bone = hu["spongy"] + 50.0 * at.fine + (hu["cortical"] * 0.75 - hu["spongy"]) * np.clip(1.0 + d / 2.5, 0.0, 1.0)
        return np.where(level(at) < -0.72, np.float32(hu["disc"]), bone)

    def arch(at: Local) -> np.ndarray:
        x, y = at.x - at.at(bow), at.y - at.at(cord)
        ring = np.abs(elliptic_distance((x, 13.0), (y - 0.5, 11.0))) - 2.8
        mass = elliptic_distance((np.abs(x) - 19.0, 7.0), (y - 5.0, 8.0))
        spinous = np.maximum(np.abs(x) - 3.0, np.abs(y + 22.0) - 13.0) + 3.0 * (level(at) < 0.2)
        both = np.minimum(smooth_min(ring, mass, 4.0), spinous)
        return np.maximum(both + np.clip(-0.35 - level(at), 0.0, None) * 5.0, at.z - 20.0)

    arch_box = (-34.0, 34.0, float(cord.min()) - 40, -50.0, -300.0, 22.0)
    z0 = -300.0
    # The canal's lining and cord: a contour of the cord averages 1.35 cm2 in OpenKBP.
    rx, ry = np.full_like(bow, 7.3 + jitter(0.3)), table((22, 6.4), (0, 5.9), (-260, 5.6))
    return [
        *(ellipsoid((s * 16 * size, -68 + jitter(), 19), (9, 11, 8), hu["cortical"] * 0.7) for s, size in patient.sides()),
        Solid(column_box(bow, cord + ahead, width, depth, z0, 16.0), column(bow, cord + ahead, width, depth, z0, 16.0), vertebra_hu),
        Solid(arch_box, arch, lambda at, d: hu["cortical"] * 0.65 + 90.0 * at.fine),
        tube(bow, cord, rx + 3, ry + 2.6, (z0, 24.0), hu["csf"] - 8.0),
        tube(bow, cord, rx, ry, (z0, 22.0), lambda at, d: hu["spinal cord"] + 4.0 * at.fine, label_of("spinal cord"), needs="spinal cord"),
    ]


def muscles_and_vessels(patient: Patient) -> list[Solid]:
    """Sternocleidomastoid, muscles of the nape, carotid arteries, jugular veins, thyroid gland."""
    hu, jitter = patient.hu, patient.jitter
    muscle, vessel, fat = hu["muscle"] + 12.0, hu["vessel"], hu["fat"]

    def meat(at: Local, d: np.ndarray) -> np.ndarray:
        return muscle + 6.0 * at.fine

    solids: list[Solid] = []
    for sign, size in patient.sides():
        y = jitter(2.0)
        solids += [
            tube(table((20, sign * 58), (-60, sign * 46), (-140, sign * 36)), table((20, -86), (-60, -66), (-110, -70), (-160, -90)),
                 np.full_like(patient.cord_y, 13.0 * size), table((20, 9), (-60, 13), (-140, 20)), (-170.0, 12.0), fat + 15.0),
            tube(table((40, sign * 14), (-200, sign * 20)), patient.cord_y - 30 + y, table((40, 13), (-60, 15), (-200, 19)) * size,
                 table((40, 10), (-20, 17), (-200, 14)), (-220.0, 30.0), meat),
            tube(table((40, sign * 36), (-80, sign * 38), (-160, sign * 50)), patient.cord_y - 14 + y, table((40, 12), (-160, 14)) * size,
                 np.full_like(patient.cord_y, 12.0), (-170.0, 26.0), meat),
            capsule((sign * 60, -74 + y, 22), (sign * 45 * size, -42 + y, -55), 8.0 * size, meat, flat=1.4),
            capsule((sign * 45 * size, -42 + y, -55), (sign * 14, -14, -128), 8.0 * size, meat, flat=1.3),
            capsule((sign * 30, -50 + y, 25), (sign * 26 * size, -48 + y, -60), 3.6, vessel),
            capsule((sign * 26 * size, -48 + y, -60), (sign * 17, -46, -150), 3.8 * size, vessel),
            capsule((sign * 37, -58 + y, 25), (sign * 34, -52 + y, -60), 5.5 * size, vessel),
            capsule((sign * 34, -52 + y, -60), (sign * 24, -38, -140), 6.5 * size, vessel),
            ellipsoid((sign * 17, -38 + y, -92 + jitter(2.0)), (8 * size, 9, 19 * size), hu["thyroid"]),
        ]  # fmt: skip
    return [*solids, Solid((-22, 22, -62, -46, -80, 20), lambda at: np.maximum(np.abs(at.y + 54.0) - 4.0, np.abs(at.x) - 17.0), meat)]


def larynx(patient: Patient) -> list[Solid]:
    """Hyoid, larynx (a column whose truth holds cartilage, soft parts and lumen, as contours of it do) and trachea."""
    hu, jitter = patient.hu, patient.jitter
    x0, cx, cy, z0 = jitter(1.5), jitter(0.8), -34.0 + jitter(1.5), -67.0 + jitter(3.0)
    size = 0.95 + jitter(0.04)
    low, high = z0 - 17.0, z0 + 17.0
    x = table((high, x0), (-150, x0 + cx), (-240, x0 - 6))
    y = table((high, cy), (low, cy - 2), (low - 20, cy - 6), (-130, -46), (-170, -57), (-240, -76))
    rx, ry = table((high, 16.0), (z0, 18.0), (low, 15.0)) * size, table((high, 15.5), (z0, 18.5), (low, 16.0)) * size
    ossified = patient.rng.uniform(0.0, 220.0)

    def cartilage(at: Local) -> np.ndarray:
        shell = np.abs(elliptic_distance((at.x - at.at(x), at.at(rx)), (at.y - at.at(y), at.at(ry))) + 2.2) - 1.7
        thyroid = np.maximum(shell, np.maximum(np.abs(at.z - z0 - 3.0) - 10.0, at.at(y) - 5.0 - at.y))
        ring = np.maximum(np.abs(elliptic_distance((at.x - at.at(x), 12.0), (at.y - at.at(y), 13.0))) - 2.0, np.abs(at.z - z0 + 12.0) - 4.0)
        return np.minimum(thyroid, ring)

    def cartilage_hu(at: Local, d: np.ndarray) -> np.ndarray:
        return hu["cartilage"] + ossified * np.clip(0.5 + at.coarse + 0.5 * at.fine, 0.0, 2.0)

    def inside(at: Local, d: np.ndarray) -> np.ndarray:
        return hu["larynx"] + (hu["fat"] * 0.6 - hu["larynx"]) * np.clip(at.coarse - 0.6, 0.0, 1.0) + 6.0 * at.fine

    # The lumen: wide above, a slit between the cords, round below.
    lumen_x = table((high, 9), (z0 + 4, 7), (z0 + 1, 2.5), (z0 - 3, 2.5), (z0 - 7, 7.5), (low, 8.5)) * size
    lumen_y = table((high, 8), (z0 + 4, 10), (z0 - 3, 10), (z0 - 8, 9), (low, 9))
    box = column_box(x, y, rx + 1, ry + 1, low, high)
    windpipe = np.full_like(x, 9.0 * size)
    bone: list[tuple[Point, Point]] = [((-13, -12, -42), (14, -13, -41))]
    bone += [((s * 14, -12, -42), (s * 20 * k, -38, -38)) for s, k in patient.sides()]
    return [
        *(capsule(a, b, 3.0, hu["spongy"] * 1.3) for a, b in bone),
        tube(x, y, rx, ry, (low, high), inside, label_of("larynx"), needs="larynx"),
        Solid(box, cartilage, cartilage_hu, 0, "larynx"),
        tube(x, y - 1, lumen_x, lumen_y, (low, high + 8), hu["air"], needs="larynx"),
        tube(x, y, windpipe + 2, windpipe + 2, (-260.0, low), hu["cartilage"] * 0.6),
        tube(x, y, windpipe, windpipe + 0.5, (-260.0, low + 1), hu["air"]),
    ]


def esophagus(patient: Patient) -> list[Solid]:
    """A flat muscular tube between windpipe and spine, mostly left of the middle, some with a little air in it."""
    hu, jitter = patient.hu, patient.jitter
    z1 = -85.0 + jitter(4.0)
    x = table((-80, jitter(0.8)), (-110, -2.0 + jitter(1.0)), (-170, -6.0 + jitter(1.5)), (-240, -5))
    y = table((-80, -57.5), (-100, -61.5), (-120, -66.5), (-140, -72), (-160, -78), (-200, -91), (-240, -98)) + jitter(0.7)
    size = 1.0 + jitter(0.06)
    rx, ry = table((-80, 9.5), (-110, 8.3), (-240, 9)) * size, table((-80, 5), (-110, 5.8), (-240, 7)) * size
    air = patient.rng.random() < 0.4
    label = label_of("esophagus")
    wall = tube(x, y, rx, ry, (-300.0, z1), lambda at, d: hu["esophagus"] + 14.0 + 7.0 * at.fine, label, needs="esophagus")
    gap = tube(x, y, rx * 0.35, ry * 0.4, (-190.0, -118.0), hu["air"] * 0.8, needs="esophagus")
    return [wall, gap] if air else [wall]


def chest(patient: Patient) -> list[Solid]:
    """Lungs in their ribs, clavicles, shoulder blades, heads of the humerus; shoulders follow the patient's."""
    hu, jitter = patient.hu, patient.jitter

    def humerus_hu(at: Local, d: np.ndarray) -> np.ndarray:
        return hu["spongy"] + 500.0 * np.clip(1.0 + d / 3.0, 0.0, 1.0)

    solids: list[Solid] = []
    for sign, size in patient.sides():
        up = patient.shoulder_mm + sign * 150 * 1.5 * (patient.right - 1.0)
        cx, cy, cz = sign * 62 * size, -88 + jitter(2.0), -222 + jitter(4.0)

        def ribs(at: Local, cx: float = cx, cy: float = cy, cz: float = cz) -> np.ndarray:
            d = elliptic_distance((at.x - cx, 46.0), (at.y - cy, 66.0), (at.z - cz, 96.0))
            return np.maximum(np.abs(d) - 3.0, 2.0 - 6.0 * np.cos(0.35 * at.z - 0.12 * at.y))

        bone = hu["cortical"] * 0.6
        blade = np.float32(sign), np.float32(up)

        def scapula(at: Local, blade: tuple[np.float32, np.float32] = blade) -> np.ndarray:
            x, z = at.x * blade[0], at.z - blade[1]
            plate = np.abs(at.y + 186.0 - 0.33 * x - 0.001 * (x - 120.0) ** 2 + 0.1 * (z + 130.0)) - 3.0
            return np.maximum(plate, np.maximum(np.abs(x - 118.0) - 50.0, z + 92.0 + 0.25 * (150.0 - x)))

        low, high = sorted((sign * 65.0, sign * 170.0))
        solids += [
            ellipsoid((sign * 120, -125, -115 + up), (60, 34, 22), hu["muscle"] + 8.0),
            ellipsoid((cx, cy, cz), (42, 62, 92 + jitter(4.0)), lambda at, d: hu["lung"] + 40.0 * at.fine),
            Solid((cx - 50, cx + 50, cy - 70, cy + 70, cz - 50, cz + 100), ribs, bone),
            capsule((sign * 16, -12, -138 + up * 0.4), (sign * 90, -62, -112 + up), 5.5 * size, bone),
            capsule((sign * 90, -62, -112 + up), (sign * 165, -100, -96 + up), 5.5 * size, bone),
            Solid((low, high, -200, -100, -300, -85 + up), scapula, bone),
            ellipsoid((sign * 188, -98 + jitter(2.0), -124 + up), (24 * size, 24, 23), humerus_hu),
            capsule((sign * 192, -98, -130 + up), (sign * 204, -98, -260 + up), 12.0, bone),
        ]
    return solids
