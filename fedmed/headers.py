"""What the headers of a dataset's DICOM files tell of patients, where its label files do not."""

import pandas as pd

from fedmed.files import ImageFiles
from fedmed.pixels.dicom import attributes

COLUMNS = ("view", "sex", "age", "scanner")


def headers(dataset: ImageFiles, images: "pd.Series[str]") -> pd.DataFrame:
    """Return ``view sex age scanner`` of each image, missing where its file is or does not tell."""
    nothing = dict.fromkeys(COLUMNS)
    told = [attributes(dataset.path(i)) if dataset.has(i) else nothing for i in images]
    return pd.DataFrame(told, images.index, COLUMNS)
