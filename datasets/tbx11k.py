"""TBX11K (Liu et al. 2020), in the layout of its download.

``TBX11K/`` holds ``annotations/json/TBX11K_train.json`` and ``TBX11K_val.json`` and the images that
they list, ``imgs/health/h0001.png``, ``imgs/sick/…`` and ``imgs/tb/…``. The root is that folder or
the one around it. ``imgs/test`` has no public labels and ``imgs/extra`` is other sets (Shenzhen and
Montgomery among them); neither is read.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from torchxrayvision.datasets import TBX11K_Dataset

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles, through_xrv

#: What the two labelled parts are used for.
SPLITS = {"train": "train", "val": "test"}
#: torchxrayvision's names for the findings.
FINDINGS = {
    "Tuberculosis": "Tuberculosis",
    "Active Tuberculosis": "ActiveTuberculosis",
    "Latent Tuberculosis": "ObsoletePulmonaryTuberculosis",
}


CATEGORIES = {"ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis"}


def _check_boxes(source: Path) -> None:
    """Refuse categories that are not the publishers', and boxes of none of them or of no image."""
    coco = json.loads(source.read_bytes())
    tuberculosis = {c["id"]: c["name"] for c in coco["categories"] if c["name"] in CATEGORIES}
    named = [(c["name"], c["supercategory"]) for c in coco["categories"]]
    if sorted(named) != sorted((name, "Tuberculosis") for name in CATEGORIES) or len(
        tuberculosis
    ) != len(CATEGORIES):
        raise DataError(
            f"{source}: categories: takes {', '.join(sorted(CATEGORIES))}, each of Tuberculosis "
            f"and with an id of its own, got {named}"
        )
    folders = {image["id"]: str(image["file_name"]).split("/")[0] for image in coco["images"]}
    for row, box in enumerate(coco["annotations"]):
        for key, known in (("category_id", tuberculosis), ("image_id", folders)):
            if box[key] not in known:
                raise DataError(
                    f"{source}: annotations[{row}].{key}: takes one that is listed, got {box[key]}"
                )
        if folders[box["image_id"]] != "tb":
            raise DataError(
                f"{source}: annotations[{row}]: is a box of tuberculosis in an image of "
                f"{folders[box['image_id']]}/"
            )


class TBX11K(ImageFiles):
    """TBX11K: 6,600 labelled images to train and 1,800, the publishers' val, to test.

    The labels of the publishers' own test images are not public. The healthy and the sick without
    tuberculosis are negative for every finding. An image of ``imgs/tb`` without a box, of which
    there is one, is of unknown findings.
    """

    card = Card.load("tbx11k")

    def table(self) -> pd.DataFrame:
        """Return one row an image of the two label files, in their order."""
        home = self.root / "TBX11K" if (self.root / "TBX11K").is_dir() else self.root
        parts = [self._part(home, part, split) for part, split in SPLITS.items()]
        return pd.concat(parts, ignore_index=True)

    def _part(self, home: Path, part: str, split: str) -> pd.DataFrame:
        source = home / "annotations" / "json" / f"TBX11K_{part}.json"
        if not source.is_file():
            raise DataError(f"{source.relative_to(home)} is missing in {home}")
        parsed = through_xrv(TBX11K_Dataset, source, imgpath=str(home), split=part)
        try:
            _check_boxes(source)
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__} {error}"
            raise DataError(f"{source}: is not a COCO file of boxes: {reason}") from None
        listed = parsed.csv.reindex(columns=["file_name"])["file_name"].astype(str)
        wrong = ~listed.str.fullmatch(r"(health|sick|tb)/\w+\.png")
        if listed.empty or wrong.any():
            row = int(np.flatnonzero(wrong)[0]) if len(listed) else 0
            found = repr(listed[row]) if len(listed) else "no images"
            raise DataError(
                f"{source}: images[{row}].file_name: takes health/h0001.png, sick/… or tb/…, "
                f"got {found} ({int(wrong.sum())} such images)"
            )
        folder = home.relative_to(self.root) / "imgs"
        names = listed.str.removesuffix(".png")
        table = pd.DataFrame(
            {
                "image": [(folder / name).as_posix() for name in listed],
                "patient": "tbx11k:" + names,
                "site": self.card.title,
                "view": None,
                "sex": None,
                "age": float("nan"),
                "scanner": None,
                "split": split,
            }
        )
        findings = pd.DataFrame(parsed.labels, columns=parsed.pathologies)
        findings = findings[list(FINDINGS.values())].set_axis(list(FINDINGS), axis=1)
        unboxed = listed.str.startswith("tb/") & (findings["Tuberculosis"] == 0)
        return table.join(findings.mask(unboxed))
