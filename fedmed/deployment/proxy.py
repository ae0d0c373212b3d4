"""What stands between hospitals and the SuperLink: nginx, which lets the Fleet API through alone.

Flower 1.41 serves all of its APIs on one port: Fleet, by which SuperNodes get messages and which
knows them by their keys; Control, by which runs are started and nodes registered, and Runtime, by
which the server's own processes work, both without credentials.
"""

import shutil
from pathlib import Path
from string import Template

from fedmed.core.errors import FedmedError

#: Paths of the Fleet API that a SuperNode with a registered key calls. Nodes that register
#: themselves call register-node and unregister-node too; here the administrator registers.
FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
#: The path is written anew for the SuperLink, so that both mean the same one by it, whatever dots
#: and escapes a stranger has put in.
_LOCATION = """\
        location = /v1/fleet/{name} {{
            limit_except POST {{ deny all; }}
            access_log off;
            set $args "";
            proxy_pass https://superlink/v1/fleet/{name};
        }}"""
_TEMPLATE = Path(__file__).with_name("nginx.conf")


def nginx() -> str:
    """Return the path of nginx.

    Raises:
        FedmedError: if it is not installed, with the command that installs it.
    """
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FedmedError("nginx is not installed: apt-get install nginx-light")
    return found


def configuration(
    folder: Path, listen: str, certificate: Path, key: Path, superlink: str, authority: Path
) -> str:
    """Return what ``nginx -c`` takes.

    Args:
        folder: of its log, of what it refuses, and of its process id; absolute, as all paths here.
        listen: the address and port for hospitals, as nginx takes them: ``0.0.0.0:443``.
        certificate: what hospitals are shown, with the chain up to their authority; PEM.
        key: the certificate's.
        superlink: the SuperLink's own address and port.
        authority: which its certificate, for ``localhost``, is signed by.
    """
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        folder=folder,
        listen=listen,
        certificate=certificate,
        key=key,
        superlink=superlink,
        authority=authority,
        fleet="\n".join(_LOCATION.format(name=name) for name in FLEET),
    )
