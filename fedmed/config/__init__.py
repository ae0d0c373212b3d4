"""The configuration: composed by Hydra, typed by pydantic, refused in one line when it is wrong."""

from fedmed.config.compose import CONF, compose, parse, record, settings, tree
from fedmed.config.identity import NOT_IDENTITY
from fedmed.config.schema import (
    DPSGD,
    Augment,
    Client,
    Component,
    Config,
    Deployment,
    Device,
    Faults,
    Injection,
    Local,
    Model,
    NoPrivacy,
    Ray,
    Runner,
    Strategy,
    Tracking,
)

__all__ = [
    "CONF",
    "DPSGD",
    "NOT_IDENTITY",
    "Augment",
    "Client",
    "Component",
    "Config",
    "Deployment",
    "Device",
    "Faults",
    "Injection",
    "Local",
    "Model",
    "NoPrivacy",
    "Ray",
    "Runner",
    "Strategy",
    "Tracking",
    "compose",
    "parse",
    "record",
    "settings",
    "tree",
]
