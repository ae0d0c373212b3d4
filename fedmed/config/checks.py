"""What a task's values may not be together, wherever they come from."""

from fedmed.config.schema import DPSGD, Model, NoPrivacy, Task
from fedmed.core.errors import ConfigError
from fedmed.core.units import named


def check_values(task: Task) -> None:
    """Refuse values that their types allow and that cannot be trained with.

    Raises:
        ConfigError: naming the key and what it takes.
    """
    _check_weights(task.model)
    _check_privacy(task.privacy)


def _check_weights(model: Model) -> None:
    if model.weights is not None and model.weights.suffix != ".safetensors":
        target = model.weights.with_suffix(".safetensors")
        raise ConfigError(
            f"model.weights: {model.weights} is not a .safetensors file; other formats can run "
            'code when read, so convert it first: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{model.weights}', weights_only=True), '{target}')\""
        )


def _check_privacy(privacy: NoPrivacy | DPSGD) -> None:
    if isinstance(privacy, NoPrivacy):
        return
    if privacy.epsilon is None and privacy.noise_multiplier is None:
        raise ConfigError(
            "privacy.epsilon: give it, and the noise is found for the planned steps, or give "
            "privacy.noise_multiplier, and epsilon is reported; with both, clients stop at epsilon"
        )
    unit = named(privacy.unit)
    if unit.extent != "patient" and privacy.images_per_patient is not None:
        raise ConfigError(
            f"privacy.images_per_patient: is of privacy.unit=patient; where {unit.several} are the "
            "unit, leaving one out would let another in, and change the sum by two"
        )
