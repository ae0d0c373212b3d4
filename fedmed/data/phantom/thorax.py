"""The normal chest: how many centimetres of tissue, air and bone each ray crosses."""

from dataclasses import dataclass

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy, along
from fedmed.data.phantom.draw import Canvas, Image
from fedmed.data.phantom.skeleton import skeleton

#: Density of inflated lung relative to water (ICRU report 44: 0.26).
PARENCHYMA = 0.26


@dataclass
class Thorax:
    """What the rays cross, each H×W in cm of water.

    What fills the lungs (heart, vessels, lesions, fluid) takes the place of air there and adds
    nothing elsewhere, which is why a filled lung wipes out the heart's border (silhouette sign).

    Attributes:
        body: the soft tissue, were the chest solid.
        cavity: the depth of the space that the lungs share with what fills them.
        filling: soft tissue and fluid in that space.
        vessels: the pulmonary vessels and interstitium in that space.
        bone: what bones add.
        free_air: the share of the cavity that is air without parenchyma.
    """

    body: Image
    cavity: Image
    filling: Image
    vessels: Image
    bone: Image
    free_air: Image | None = None

    def water(self) -> Image:
        """Return what each ray crosses, cm of water, H×W."""
        air = np.maximum(self.cavity - self.filling - self.vessels, 0)
        density = 1 - PARENCHYMA
        if self.free_air is None:
            air *= density
        else:
            air *= density + PARENCHYMA * self.free_air
        return np.maximum(self.body - air, 0) + self.bone


def thorax(canvas: Canvas, anatomy: Anatomy, vessels: Image) -> Thorax:
    """Return the chest before any finding but those that reshape the anatomy itself.

    Args:
        canvas: the pixels.
        anatomy: the chest.
        vessels: the thickness of vessels and interstitium, cm, H×W.
    """
    out = np.abs(canvas.x)
    cage = anatomy.rib_cage(canvas.y)
    reach = out / np.maximum(cage, 0.1)
    cap = np.sqrt(np.maximum(1 - np.square(reach), 0))
    cavity = cap * (anatomy.depth * np.sqrt(np.maximum(cage, 0) / anatomy.thorax))
    cavity *= canvas.inside(anatomy.diaphragm(canvas) - canvas.y, 0.5)
    return Thorax(
        body=_soft_tissue(canvas, anatomy, out),
        cavity=cavity,
        filling=np.maximum(_mediastinum(canvas, anatomy), _heart(canvas, anatomy)),
        vessels=vessels,
        bone=skeleton(canvas, anatomy, out, reach, cap),
    )


def _soft_tissue(canvas: Canvas, anatomy: Anatomy, out: Image) -> Image:
    y, edge, girth = canvas.y, anatomy.thorax, anatomy.girth
    flank = 2.2 * girth**2
    half = along(
        y,
        (-9, 5.2 * girth),
        (-5, 6 * girth),
        (-3, 8.5),
        (-1.5, edge),
        (0.5, edge + 5.5),
        (3.5, edge + 7),
        (7, edge + 5.5),
        (9.5, edge + flank + 0.8),
        (14, edge + flank),
        (24, edge + flank),
        (34, edge + flank + 1.5 * (girth - 1)),
    )
    deep = along(y, (-9, 11), (-4, 11.5), (2, 14.5), (9, 19.5), (20, 20.5), (34, 19)) * girth**0.7
    body: Image = np.sqrt(np.maximum(1 - np.square(out / half), 0)) * deep
    spread = 0.12 if anatomy.supine else 0.5
    arm = edge + 5.6 + spread * np.maximum(y - 4, 0)
    body += canvas.tube(out - arm, 3.6 * girth) * (np.clip((y - 4) / 6, 0, 1) * (7.2 * girth))
    return body + _breasts(canvas, anatomy, out) - _airways(canvas, anatomy, out)


def _breasts(canvas: Canvas, anatomy: Anatomy, out: Image) -> Image | float:
    if not anatomy.breast:
        return 0.0
    y, size = canvas.y, anatomy.breast
    low = 0.6 * anatomy.dome_right + 0.03 * (anatomy.age - 40) + 0.25 * size
    # They hang: a crisp lower border, and no upper one.
    full = np.clip(1 + (y - low) / (1.6 * size), 0, 1)
    hang = np.square(np.maximum(y - low, 0) / size)
    cup = np.maximum(1 - np.square((out - 0.6 * anatomy.thorax) / (1.05 * size)) - hang, 0)
    breasts: Image = np.sqrt(cup) * (np.square(full) * (0.62 * size))
    return breasts


def _airways(canvas: Canvas, anatomy: Anatomy, out: Image) -> Image:
    """Return the air outside the lungs: trachea, main bronchi and gastric bubble, cm."""
    y, carina = canvas.y, anatomy.hilum_left - 0.6
    x = canvas.x - anatomy.centre
    air = 3.2 * canvas.tube(x + 0.25, 0.95) * canvas.inside(carina - y, 1)
    bronchi = canvas.tube(y - carina - 0.72 * np.abs(x + 0.2), 0.75)
    air += 1.6 * bronchi * canvas.inside(3.8 - out, 0.8)
    size = anatomy.bubble
    if size > 0.4:
        top = anatomy.dome_left + 1.1
        bubble = canvas.ellipsoid(6.2, top + 0.75 * size, 1.6 * size, size, -0.15)
        # Fluid levels show only in those who stand.
        level = 1.0 if anatomy.supine else canvas.inside(top + 0.1 + size - y)
        air += 4.5 * bubble * level
    return air


def _mediastinum(canvas: Canvas, anatomy: Anatomy) -> Image:
    y, hilum = canvas.y, anatomy.hilum_left
    centre = anatomy.centre
    old = max(anatomy.age - 50, 0) / 30
    wide = 0.25 if anatomy.supine else 0.0
    right = along(
        y,
        (-3, 4.2),
        (0, 3.2),
        (3, 2.9),
        (hilum - 2, 2.6 + 0.5 * old),
        (hilum + 1, 3.0 + 0.3 * old),
        (hilum + 5, 3.0),
    )
    left = along(
        y,
        (-3, 4.2),
        (0, 3.1),
        (3, 2.5),
        (hilum - 2, 2.4),
        (hilum, 2.2),
        (hilum + 1.6, 3.5),
        (hilum + 4, 4.2),
        (30, 4.2),
    )
    sides = canvas.inside(canvas.x + right + (wide - centre), 1.1)
    sides *= canvas.inside(left + (wide + centre) - canvas.x, 1.1)
    x, height, knob = anatomy.knob
    aorta = canvas.ellipsoid(x, height, knob, knob)
    descending = canvas.inside(2.4 + 0.7 * old + centre - canvas.x, 0.4) * (y > height) * 2.2
    hila = canvas.blob(RIGHT * 3.5 + centre, anatomy.hilum_right + 0.6, 0.9, 1.7)
    hila += canvas.blob(LEFT * 3.5 + centre, anatomy.hilum_left + 0.5, 0.9, 1.5)
    filled: Image = np.maximum(sides * 10, aorta * (5 * knob)) + hila * 2.6
    return filled + descending * (canvas.x > 0)


def _heart(canvas: Canvas, anatomy: Anatomy) -> Image:
    x, y, long, short, tilt = anatomy.heart
    # The base of the heart thins out into the great vessels.
    base = canvas.inside(canvas.y - y + 0.7 * short, short)
    depth: Image = np.sqrt(canvas.ellipsoid(x, y, long, short, tilt)) * (base * (1.5 * short))
    return depth
