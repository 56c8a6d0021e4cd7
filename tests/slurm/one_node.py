"""A Slurm of one node on this machine, with its own keys, ports and folders, for whoever needs one."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("sbatch", "squeue", "scontrol", "slurmctld", "slurmd", "munged")
CONFIG = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=15
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerParameters=sched_interval=2,sched_min_interval=1000000,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
"""


@dataclass(frozen=True)
class Slurm:
    environment: dict[str, str]

    def run(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(words, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, *words: str, cwd: Path) -> str:
        """Number of the job."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd).split(";")[0]

    def jobs(self, number: str) -> dict[str, dict[str, str]]:
        """Of each task of an array: what Slurm says of it."""
        lines = self.run("scontrol", "--oneliner", "show", "job", number).splitlines()
        fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return {job.get("ArrayTaskId", ""): job for job in fields}

    def wait(self, number: str, seconds: float) -> dict[str, dict[str, str]]:
        """Until no task is waiting or running."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            jobs = self.jobs(number)
            if all(job["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") for job in jobs.values()):
                return jobs
            time.sleep(1)
        raise AssertionError(f"job {number} has not ended: {self.run('squeue')}")


class NoSlurm(Exception):
    """Why there is none on this machine."""


@contextmanager
def one_node(folder: Path) -> Iterator[Slurm]:
    """folder: an empty one, for its state and logs."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise NoSlurm(f"Slurm is not installed here ({missing[0]} is missing): apt-get install slurmctld slurmd munge")
    if os.geteuid() != 0:
        raise NoSlurm("Slurm's daemons are started by root alone")
    environment = _configure(folder)
    munged = [
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
        f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log",
    ]
    daemons: list[subprocess.Popen] = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("w") as output:
                daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            time.sleep(2)  # each needs the one before it
        _wait_until_idle(folder, environment)
        yield Slurm(environment)
        _said(["scancel", "--user=root"], environment)
        time.sleep(1)
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _configure(folder: Path) -> dict[str, str]:
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)  # munged refuses a socket that others could not reach
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIG.format(
        host=host, folder=folder, controller_port=_free_port(), node_port=_free_port(), cpus=os.cpu_count()
    ))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}


def _wait_until_idle(folder: Path, environment: dict[str, str]) -> None:
    ends = time.monotonic() + 30
    while "idle" not in (said := _said(["sinfo"], environment)):
        if time.monotonic() > ends:
            logs = "\n".join(file.read_text()[-1500:] for file in sorted(folder.glob("*.out")))
            raise NoSlurm(f"Slurm is installed and does not start here: {said}\n{logs}")
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _said(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr
