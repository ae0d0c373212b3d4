"""The eight findings by name, each drawn where a radiologist would look for it."""

from fedmed.data.phantom.finding import Finding
from fedmed.data.phantom.opacities import Consolidation, Edema, Mass, Nodule
from fedmed.data.phantom.pleura import Effusion, Pneumothorax
from fedmed.data.phantom.volumes import Atelectasis, Cardiomegaly

#: In the order in which they are drawn: what clears the lung comes last.
FINDINGS: dict[str, type[Finding]] = {
    "Atelectasis": Atelectasis,
    "Cardiomegaly": Cardiomegaly,
    "Consolidation": Consolidation,
    "Edema": Edema,
    "Effusion": Effusion,
    "Mass": Mass,
    "Nodule": Nodule,
    "Pneumothorax": Pneumothorax,
}
