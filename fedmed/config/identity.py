"""What a run is: all that decides its weights, as one hash, and what else their bits hang on.

The device's kind is part of it, as found and not as ``auto``; files that decide (first weights, a
saved partition) count by content. What no hash can promise is recorded: another processor, library
or version of the code gives other last bits.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fedmed
from fedmed.core.errors import ConfigError

if TYPE_CHECKING:
    from fedmed.config import Config, Runner, Task

Kind = Literal["cpu", "cuda"]
#: What changes neither the weights nor the scores, and so not the identity of a run.
NOT_IDENTITY = ("name", "force", "store", "runner", "tracking", "record", "anchor", "paper")
#: The keys and groups that say how a run goes and how it is shown, but for those that decide yet.
IDLE = ("name", "store", "runner", "tracking", "record", "anchor")
LOOKED_AT = ("runner.device", "runner.deterministic")
PACKAGES = ("fedmed", "flwr", "torch", "monai", "flwr-datasets", "dp-accounting", "opacus", "numpy")
#: Variables by which oneDNN, ATen and MKL are told to leave instructions of the processor alone.
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
#: Of what the code makes of a configuration: counted up when the same one gives another result.
SEMANTICS = 1
OWN = "fedmed."  # what import paths of its own begin with
_VECTORS = ("avx", "amx", "fma", "sse4", "asimd", "sve")


def device(runner: "Runner") -> Kind:
    """Return the kind of device that networks are on: what was asked for, or what there is."""
    if runner.device != "auto":
        return runner.device
    import torch  # slow, and seldom needed by who only looks at configurations

    return "cuda" if torch.cuda.is_available() else "cpu"


def decisive(config: "Task") -> dict[str, Any]:
    """Return the values that decide the result, for JSON, but for the device.

    A component of fedmed's is its name, wherever its module lies; one of another package is its
    import path. Infinities and keys that are no text stay apart from what JSON would make of them.
    """
    values = config.model_dump(by_alias=True, exclude=set(NOT_IDENTITY))
    return {"semantics": SEMANTICS, **_placeless(values)}


def drawn(config: "Task") -> dict[str, Any]:
    """Return the values that key what is drawn at random: :func:`decisive` without the aggregation.

    How a sum is reached hides it, and shall not change it: what is random is the same under each.
    """
    return {key: value for key, value in decisive(config).items() if key != "aggregation"}


def _placeless(node: Any) -> Any:
    if isinstance(node, Path):
        return str(node)
    if isinstance(node, list | tuple):
        return [_placeless(value) for value in node]
    if not isinstance(node, dict):
        return node
    found = {
        key if isinstance(key, str) else f"<{type(key).__name__}> {key}": _placeless(value)
        for key, value in node.items()
    }
    target = found.get("_target_")
    if isinstance(target, str) and target.startswith(OWN):
        found["_target_"] = target.rpartition(".")[2]
    return found


def sha256(config: "Config", on: Kind) -> str:
    """Return the hash of all that decides the result of a configuration on a kind of device.

    Raises:
        ConfigError: if a file whose content decides cannot be read.
    """
    return _sha256(config, on, decisive(config))


def drawn_sha256(config: "Config") -> str:
    """Return the hash of what keys the server's draws: :func:`sha256` without the aggregation."""
    return _sha256(config, config.device, drawn(config))


def _sha256(config: "Config", on: Kind, values: dict[str, Any]) -> str:
    if config.model.weights is not None:
        values["model"]["weights"] = _content("model.weights", config.model.weights)
    if file := config.partition.arguments.get("file"):
        values["partition"]["file"] = _content("partition.file", Path(file))
    values["device"] = on
    if on == "cuda":  # on a processor every kernel that is used repeats
        values["deterministic"] = getattr(config.runner, "deterministic", False)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def undecisive(overrides: Sequence[str]) -> list[str]:
    """Return those of some overrides that decide neither weights nor scores."""
    keys = [(override, override.lstrip("+~").partition("=")[0]) for override in overrides]
    return [o for o, key in keys if key.partition(".")[0] in IDLE and key not in LOOKED_AT]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two composed configurations are not the same run."""
    mine, theirs = dict(leaves(one)), dict(leaves(other))
    return sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))


def leaves(composed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what decides the result in a composed configuration, by dotted key.

    No two places have one key: a dot within a name, and a name that is no text, are marked by a
    backslash.
    """
    for key, node in composed.items():
        if key not in NOT_IDENTITY:
            yield from _leaves(_written(key), node)


def surroundings(config: "Config") -> dict[str, str]:
    """Return what bits hang on beside the identity: code, packages, processor; no names of hosts.

    The kernels of oneDNN, ATen and MKL are chosen by what the processor can do, and sum in another
    order on another one.
    """
    import torch

    found = {"python": platform.python_version(), "machine": platform.machine()}
    found |= {name: version(name) for name in PACKAGES} | {"code": _code(config)}
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    found["cpu_vectors"] = _vectors()
    if limits := [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]:
        found["cpu_limits"] = " ".join(limits)
    if config.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found


def basis(hashes: Mapping[str, str], around: Mapping[str, str]) -> str:
    """Return a hash of all that a release is made from, but for noise that does not repeat.

    Args:
        hashes: of configuration, data and partition.
        around: see :func:`surroundings`.
    """
    text = json.dumps([dict(hashes), dict(around)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say what of the surroundings is not as it was; nothing if all is."""
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key, 'none')} → {now.get(key, 'none')}" for key in keys)


def _leaves(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(f"{prefix}.{_written(name)}", value)
    else:
        yield prefix, node


def _written(name: object) -> str:
    """Return the name of a key such that dots between names and dots within them stay apart."""
    if isinstance(name, str):
        return name.replace("\\", r"\\").replace(".", r"\.")
    return rf"\{type(name).__name__}:{name}"


def _content(key: str, path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from None


def _code(config: "Config") -> str:
    """Return a hash of fedmed's code, and of the modules of components that are not its own."""
    values = config.model_dump(by_alias=True, exclude=set(NOT_IDENTITY))
    others = {target.rpartition(".")[0] for target in _targets(values)}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in others]
    digest = hashlib.sha256(_package().encode())
    for file in sorted({str(file) for file in files if file}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


@cache
def _package() -> str:
    root, digest = Path(fedmed.__file__).parent, hashlib.sha256()
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    for path in sorted(found):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            yield from _targets(value)


@cache
def _vectors() -> str:
    """Return the processor's vector instructions, and its maker, by which MKL chooses too."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = (told.get("flags") or told.get("Features") or "").split()
    return " ".join(
        [told.get("vendor_id", ""), *sorted(f for f in flags if f.startswith(_VECTORS))]
    )
