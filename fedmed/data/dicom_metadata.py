"""What the headers of a dataset's DICOM files tell of patients, where its label files do not."""

import pandas as pd

from fedmed.data.image_files import ImageFiles
from fedmed.data.pixels.dicom import attributes
from fedmed.data.table import OLDEST

COLUMNS = ("view", "sex", "age", "scanner")


def headers(dataset: ImageFiles, images: "pd.Series[str]") -> pd.DataFrame:
    """Return ``view sex age scanner`` of each image, missing where its file is or does not tell.

    An age that nobody reaches (some write ``999Y`` where it is not known) is not known.
    """
    nothing = dict.fromkeys(COLUMNS)
    told = [attributes(dataset.path(i)) if dataset.has(i) else nothing for i in images]
    found = pd.DataFrame(told, images.index, COLUMNS)
    age = found["age"].astype(float)
    return found.assign(age=age.where(age.between(0, OLDEST)))
