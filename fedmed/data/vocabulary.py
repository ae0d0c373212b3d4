"""The common vocabulary: one word a finding, whatever its publisher writes.

Datasets name their findings in these words, so that sets can be learnt from together. The words are
torchxrayvision's. A finding that only one publisher annotates keeps that publisher's name.
"""

_WORDS = {
    "Atelectasis": ("Atelectases",),
    "COVID-19": ("COVID", "COVID19"),
    "Cardiomegaly": (),
    "Consolidation": (),
    "Edema": ("Oedema", "Pulmonary edema"),
    "Effusion": ("Pleural effusion",),
    "Emphysema": (),
    "Enlarged Cardiomediastinum": (),
    "Fibrosis": ("Pulmonary fibrosis",),
    "Fracture": (),
    "Hernia": ("Hiatal hernia",),
    "Infiltration": ("Infiltrate", "Infiltrates"),
    "Lung Lesion": (),
    "Lung Opacity": ("Airspace opacity", "Opacity"),
    "Mass": (),
    "No Finding": ("Normal", "Healthy"),
    "Nodule": (),
    "Pleural Other": (),
    "Pleural_Thickening": ("PT",),
    "Pneumonia": (),
    "Pneumothorax": (),
    "Support Devices": ("Support device",),
    "Tuberculosis": ("TB",),
}


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


_WORD_OF = {_plain(name): word for word, others in _WORDS.items() for name in (word, *others)}


def common(name: str) -> str:
    """Return the common word for a finding, whatever its case and separators; else the name."""
    return _WORD_OF.get(_plain(name), name)


def known(name: str) -> bool:
    """Say whether a finding is a common word, in this very spelling."""
    return name in _WORDS
