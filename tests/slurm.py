"""A real Slurm of one node, on this machine, for the time of a test."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=fedmed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=4
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MpiDefault=none
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=65536 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=6
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> str:
    """Return why there can be no Slurm here, nothing if there can."""
    absent = [name for name in DAEMONS if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "a Slurm of one's own wants root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run the daemons; yield the environment in which sbatch and its like find them.

    The system ends them with this process, however it ends.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    ports = {"ctld": _free_port(), "slurmd": _free_port()}
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=host, **ports))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    environment = os.environ | {"SLURM_CONF": str(config), "PATH": _path()}
    munge = [f"--{file}-file={folder}/munge.{file}" for file in ("key", "pid", "log", "seed")]
    with ExitStack() as daemons:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ):
            daemons.enter_context(_daemon(command, environment, folder))
        daemons.callback(_end_jobs, environment)
        _wait_for_node(environment, folder)
        yield environment


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    state = ""
    for _ in range(150):
        command = ["sinfo", "--noheader", "--format=%t"]
        state = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
        if state.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.out")))
    raise RuntimeError(f"the node is {state.strip() or 'unknown'}\n{logs}")


def _end_jobs(environment: dict[str, str]) -> None:
    """Cancel what is left, and wait until its processes are gone: they outlive slurmd."""
    subprocess.run(["scancel", "--me", "--quiet"], env=environment, check=False)
    for _ in range(50):
        command = ["squeue", "--noheader"]
        if not subprocess.run(command, env=environment, capture_output=True).stdout:
            return
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"
