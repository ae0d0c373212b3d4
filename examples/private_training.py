"""Train a model of your own on images of your own, so that no patient can be told from the model.

No federation and no configuration: a torch module, a dataset, whose images they are, an optimizer.
The images here are drawn by fedmed, so that the example runs anywhere; a minute on one core.

python examples/private_training.py
"""

import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import TensorDataset

import fedmed
from fedmed.datasets.phantom import Phantom

PATIENTS, SIZE, DELTA = 400, 32, 1e-4


def images_of(split: str) -> tuple[TensorDataset, list[str]]:
    """Return the images of a split, N×1×H×W, with their labels, N×1, and whose each is."""
    phantom = Phantom(["view"], SIZE, patients=PATIENTS)
    table = phantom.table()
    table = table[table["split"] == split]
    pixels = torch.stack([torch.from_numpy(phantom.read(image)) for image in table["image"]])
    labels = torch.tensor((table["view"] == "AP").to_numpy(), dtype=torch.float32)
    return TensorDataset(pixels[:, None] / 127.5 - 1, labels[:, None]), table["patient"].tolist()


def main() -> None:
    """Train under ε = 3 for each patient, and score on patients who were not trained on."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2), nn.GroupNorm(4, 16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 5, stride=2), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)),
    )
    train, patients = images_of("train")
    spent = fedmed.train_privately(
        model,
        train,
        patients,
        torch.optim.Adam(model.parameters(), lr=0.01),
        epsilon=3,
        delta=DELTA,
        clip_norm=1.0,
        batch_size=64,
        steps=100,
        seed=0,
    )
    test, _ = images_of("test")
    images, labels = test.tensors
    with torch.no_grad():
        scores = model.eval()(images)
    z = spent.event.noise_multiplier
    print(f"ε = {spent.epsilon:.2f} at δ = {spent.delta:g} for each patient; noise multiplier {z}")
    print(f"test AUROC {roc_auc_score(labels[:, 0], scores[:, 0]):.3f} (AP or PA)")


if __name__ == "__main__":
    main()
