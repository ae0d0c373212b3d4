"""What is calcified: ribs, clavicles, scapulae, humeri, spine, and the aorta of the old."""

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy, along
from fedmed.data.phantom.draw import Canvas, Image


def skeleton(canvas: Canvas, anatomy: Anatomy, out: Image, reach: Image, cap: Image) -> Image:
    """Return what bones add to each ray, cm of water, H×W.

    Args:
        canvas: the pixels.
        anatomy: the chest.
        out: distance from the midline, cm, H×W.
        reach: the same in half-widths of the rib cage.
        cap: relative depth of the rib cage, 0 at the lateral wall.
    """
    limbs = _ribs(canvas, anatomy, out, reach, cap) + _shoulders(canvas, anatomy, out)
    bones = limbs * anatomy.bone + _spine(canvas, anatomy)
    if anatomy.calcified:
        bones += _calcification(canvas, anatomy)
    return bones


def _ribs(canvas: Canvas, anatomy: Anatomy, out: Image, reach: Image, cap: Image) -> Image:
    """Draw all posterior ribs as one periodic function of a coordinate that follows their arch.

    The anterior ribs are a second one, of a coordinate that falls towards the sternum.
    """
    y, period = canvas.y, anatomy.rib_spacing
    bend = np.square(np.minimum(reach, 1.1))
    fall, rise = 6.6 * bend * reach - 1.5 * reach, 6.5 * reach - 1.5 * bend
    behind = (y + anatomy.rib_phase * period) - anatomy.rib_arch * fall
    front = (y + (anatomy.rib_phase + 0.35) * period) + anatomy.rib_arch * rise
    # Seen on edge at the lateral wall, a rib is longer along the ray.
    edge_on = 1 / np.maximum(cap, 0.5)
    blade = canvas.inside((1.03 - reach) * anatomy.thorax, 0.6)
    ribs = _bands(behind, period, 0.22, canvas.pixel) * canvas.inside(out - 1.6, 1.0)
    fore = _bands(front, 1.12 * period, 0.2, canvas.pixel)
    # Cartilage, which does not show, joins them to the sternum.
    fore *= canvas.inside((reach - 0.42) * anatomy.thorax, 3)
    ribs += 0.32 * fore
    return ribs * edge_on * blade * canvas.inside(y + 1.2, 0.5)


def _bands(coordinate: Image, period: float, share: float, pixel: float) -> Image:
    wave = np.cos(coordinate * np.float32(2 * np.pi / period))
    # A cortex denser than the marrow: the flat top of the band is lower than its margins.
    wave -= np.float32(np.cos(np.pi * 2 * share))
    # Margins no sharper than the pixels, or the ribs' ends would alias into dots.
    band: Image = np.clip(wave * min(2.6, 0.8 / pixel), 0, 1)
    band -= 0.28 * np.clip(wave * 1.6 - 0.6, 0, 1)
    return band


def _shoulders(canvas: Canvas, anatomy: Anatomy, out: Image) -> Image:
    y, edge = canvas.y, anatomy.thorax
    past = out - 1.7  # the sternal end
    rise = anatomy.clavicle_slope * (0.8 if anatomy.supine else 1.0)
    axis = anatomy.clavicle + 0.6 - rise * past + 0.45 * np.sin(past * 0.5)
    axis += np.sign(canvas.x) * (0.4 * anatomy.yaw)
    clavicle = canvas.tube(y - axis, 0.62) * canvas.inside(past, 0.5)
    clavicle *= canvas.inside(edge + 3.5 - out, 0.8)
    head = canvas.ellipsoid(RIGHT * (edge + 5), 3.2, 2.4, 2.5)
    head += canvas.ellipsoid(LEFT * (edge + 5), 3.2, 2.4, 2.5)
    medial = along(y, (0.5, edge - 3.2), (4, edge - 2.0), (13.5, edge + 0.4)) + anatomy.scapula
    lateral = along(y, (0.5, edge + 2), (4, edge + 3.2), (13.5, edge + 1.2)) + anatomy.scapula
    level = (y > 0.5) & (y < 13.5)
    blade = canvas.inside(out - medial, 0.3) * canvas.inside(lateral - out, 0.5)
    blade += 0.8 * (canvas.tube(out - medial, 0.3) + canvas.tube(out - lateral, 0.55))
    shaft = edge + 5.4 + (0.12 if anatomy.supine else 0.5) * np.maximum(y - 3, 0)
    humerus = canvas.tube(out - shaft, 1.15) * (y > 4)
    return 2.5 * clavicle + 2.2 * head + 1.2 * blade * level + 1.8 * humerus


def _spine(canvas: Canvas, anatomy: Anatomy) -> Image:
    y = canvas.y
    bend = anatomy.scoliosis * np.sin(y * np.float32(0.2))
    wide = along(y, (-6, 1.3), (0, 1.55), (26, 2.1))
    body = canvas.inside(wide - np.abs(canvas.x - bend), 0.5)
    level = np.cos(y * np.float32(2 * np.pi / (1.04 * anatomy.rib_spacing)))
    disc = np.clip(level * 2.2 - 1.0, 0, 1)
    spine: Image = body * ((0.7 + 0.3 * anatomy.bone) * (2.3 - 1.1 * disc))
    return spine


def _calcification(canvas: Canvas, anatomy: Anatomy) -> Image:
    """Draw the calcified wall of an old aortic knob."""
    x, y, radius = anatomy.knob
    wall = canvas.ellipsoid(x, y, radius, radius)
    wall -= canvas.ellipsoid(x, y, 0.83 * radius, 0.83 * radius)
    return np.maximum(wall, 0) * (1.6 * anatomy.calcified)
