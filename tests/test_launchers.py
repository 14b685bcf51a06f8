"""Beyond one machine: Hydra's launchers as they are installed, and the files for SLURM and torchrun."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import OmegaConf

from cstl.config import CONFIG_PATH
from cstl.data import Protocol, Store, open_store
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare

SCRIPTS = Path(__file__).parents[1] / "scripts"
LAUNCHERS = [
    "joblib",
    "submitit_local",
    "submitit_slurm",
    *(path.stem for path in Path(CONFIG_PATH, "hydra", "launcher").glob("*.yaml")),
]
Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """The function (name, *lines of bash) that puts a command first on PATH; it notes its
    arguments in calls/NAME.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "calls").mkdir()

    def command(name: str, *lines: str) -> Path:
        calls, file = tmp_path / "calls" / name, tmp_path / "bin" / name
        file.write_text("\n".join(["#!/usr/bin/env bash", f"printf '%s\\n' \"$@\" >> '{calls}'", *lines, ""]))
        file.chmod(0o755)
        return calls

    return command


def run_script(
    script: str, *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = ["bash", str(SCRIPTS / script), *arguments]
    return subprocess.run(
        command,
        env={"PATH": path, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sweep(command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"cstl.{command}", "-m", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes(launcher: str) -> None:
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}", "hydra.job.num=0"], return_hydra_config=True)
    assert OmegaConf.to_container(config.hydra.launcher, resolve=True)


@pytest.mark.parametrize(
    ("command", "overrides", "expected"),
    [
        (
            "train",
            ["hydra/launcher=slurm_gpus", "trainer=gpu", "trainer.devices=4", "++trainer.num_nodes=2"],
            ["nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=8", "signal=USR2@120"],
        ),
        (
            "prepare",
            [
                "hydra/launcher=submitit_slurm",
                "hydra.launcher.cpus_per_task=16",
                "hydra.launcher.partition=cpu",
            ],
            ["nodes=1", "ntasks-per-node=1", "cpus-per-task=16", "partition=cpu", "array=0-1%2"],
        ),
    ],
)
def test_what_slurm_is_asked_for(
    command: str,
    overrides: list[str],
    expected: list[str],
    fake: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from submitit.slurm.slurm import SlurmJob

    fake("srun")
    calls = fake("sbatch", "echo Submitted batch job 12")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(SlurmJob, "results", lambda _: [JobReturn(status=JobStatus.COMPLETED)])
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose(command, [*overrides, f"hydra.sweep.dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        context = HydraContext(config_loader=None, callbacks=None)  # type: ignore[arg-type]
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=print, config=config
        )
        done = launcher.launch([["seed=1"], ["seed=2"]], initial_job_idx=0)
    finally:
        HydraConfig.instance().cfg = None
    assert len(done) == 2
    asked = Path(calls.read_text().split()[-1]).read_text().splitlines()
    assert {f"#SBATCH --{line}" for line in expected} <= set(asked)


def test_without_the_launchers_all_else_works() -> None:
    code = """
import sys, hydra_plugins
hydra_plugins.__path__ = []
from cstl.prepare import main
main()
"""

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert typed("--cfg", "job").returncode == 0
    for launcher in ("submitit_slurm", "slurm_gpus"):
        refused = typed("-m", f"hydra/launcher={launcher}", "shard=range(0,2)")
        assert refused.returncode == 1
        assert re.search(
            "(Could not (find|load) 'hydra/launcher/|there is no hydra/launcher=)submitit_slurm",
            refused.stderr,
        )


def test_prepares_in_jobs_of_which_one_fails(
    tmp_path: Path, user_conf: Path, raw_tree: Path, store: Store, protocol: Protocol
) -> None:
    """Real processes of submitit: a shard that there is not is refused and does the other no harm."""
    tiny = [
        f"--config-dir={user_conf}",
        "dataset=tiny",
        f"dataset.raw={raw_tree}",
        "dataset.store=mine",
        "workers=1",
    ]
    jobs = sweep(
        "prepare", *tiny, "hydra/launcher=submitit_local", "shards=1", "shard=range(0,2)", cwd=tmp_path
    )
    assert jobs.returncode == 1
    assert "shard=1 of shards=1: expected 0 … shards − 1" in jobs.stderr
    logs = [path.read_text() for path in (tmp_path / "runs" / "prepare-tiny-64" / ".submitit").rglob("*.out")]
    assert sorted(log.count("mine.partial: shard 0 (0 … 0) prepared, 36 sequences") for log in logs) == [0, 1]
    assert any(f"  {shlex.join(['python', '-m', 'cstl.prepare', *tiny])}\n" in log for log in logs)
    prepare(Preparation(raw_tree, tmp_path / "mine", "tiny", protocol, 64))
    assert (open_store(tmp_path / "mine").frames == store.frames).all()


def test_trains_in_jobs_of_which_one_fails(tmp_path: Path, user_conf: Path) -> None:
    """Real processes of joblib."""
    tiny = [
        f"--config-dir={user_conf}",
        "dataset=tiny",
        "trainer=cpu",
        "data.workers=0",
        "baseline=false",
        "report=false",
    ]
    jobs = sweep(
        "train", *tiny, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=both",
        "trainer.max_steps=1",
        "data.subjects=9,2", cwd=tmp_path,
    )  # fmt: skip
    assert jobs.returncode == 1
    assert "a batch needs 9 subjects" in jobs.stderr
    assert not (tmp_path / "runs" / "both" / "0" / "results.json").exists()
    assert (tmp_path / "runs" / "both" / "1" / "results.json").is_file()


# --- The files for SLURM and torchrun -----------------------------------------------------------------------

JOB = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}


@pytest.mark.parametrize(
    ("status", "restarts", "requeued", "told"),
    [
        (0, "0", False, "finished"),
        (138, "0", True, "queued again (restart 1)"),
        (138, "100", False, "not finished after 100 restarts"),
        (143, "0", False, "the same command goes on"),
        (1, "0", False, "ended with status 1, see above; not queued again"),
        (137, "3", False, "ended with status 137"),
    ],
)
def test_slurm_trains_until_finished(
    status: int, restarts: str, requeued: bool, told: str, fake: Fake, tmp_path: Path
) -> None:
    tasks, requeues = fake("srun", f"exit {status}"), fake("scontrol")
    overrides = ["name=casiab-128", "experiment=casiab_128", "data.comment=two words"]
    done = run_script("slurm/train.sbatch", *overrides, folder=tmp_path, SLURM_RESTART_COUNT=restarts, **JOB)
    assert done.returncode == status
    assert told in done.stdout + done.stderr
    asked = tasks.read_text().splitlines()
    assert asked == ["--kill-on-bad-exit=1", "python", "-m", "cstl.train", "trainer=slurm", *overrides]
    assert requeues.exists() == requeued
    if requeued:
        assert requeues.read_text().split() == ["requeue", "77"]


def test_the_batch_shell_outlives_the_signals_and_its_tasks_hear_them(fake: Fake, tmp_path: Path) -> None:
    """SIGTERM to both, as at a time limit: the task ends in its own time, the shell then reads its status."""
    task = fake("srun", "trap 'sleep 0.2; exit 138' TERM", 'kill -TERM "$PPID" $$', "sleep 1")
    requeues = fake("scontrol")
    done = run_script("slurm/train.sbatch", "name=a", folder=tmp_path, **JOB)
    assert done.returncode == 138, done.stderr
    assert task.exists()
    assert requeues.read_text().split() == ["requeue", "77"]
    assert done.returncode == 128 + signal.SIGUSR1


def test_the_trainer_is_as_large_as_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        trainer = compose("train", ["trainer=slurm", "name=a"]).trainer
    assert (trainer.num_nodes, trainer.devices) == (2, 4)


@pytest.mark.parametrize("script", ["slurm/train.sbatch", "torchrun/train.sh"])
def test_a_run_on_several_machines_needs_a_name(script: str, fake: Fake, tmp_path: Path) -> None:
    calls = fake("srun"), fake("torchrun")
    done = run_script(
        script, "experiment=demo", "dataset.name=b", folder=tmp_path, NODES="2", GPUS="4", HEAD="a:1", **JOB
    )
    assert done.returncode == 2
    assert "give the run a name" in done.stderr
    assert not any(call.exists() for call in calls)


def test_slurm_prepares_in_an_array(fake: Fake, tmp_path: Path) -> None:
    calls = fake("srun")
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    run_script("slurm/prepare.sbatch", "dataset=oumvlp", "shard=null", folder=tmp_path, **array)
    run_script("slurm/prepare.sbatch", "dataset=oumvlp", folder=tmp_path, SHARDS="16", **array)
    first, second = calls.read_text().split("--cpus-per-task=8\n")[1:]
    assert first.split()[3:] == ["shard=7", "shards=64", "workers=8", "dataset=oumvlp", "shard=null"]
    assert second.split()[3:] == ["shard=7", "shards=16", "workers=8", "dataset=oumvlp"]
    overrides = first.split()[3:]
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        assert compose("prepare", overrides).shard is None  # the last one holds, and joins


def test_torchrun_starts_every_machine(fake: Fake, tmp_path: Path) -> None:
    calls = fake("torchrun")
    machines = {"NODES": "2", "GPUS": "8", "HEAD": "node1:29500"}
    done = run_script("torchrun/train.sh", "name=a", "res=128", folder=tmp_path, **machines)
    assert done.returncode == 0, done.stderr
    asked = calls.read_text().splitlines()
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-endpoint=node1:29500"} <= set(asked)
    assert asked[-7:-4] == ["-m", "cstl.train", "trainer=ddp"]
    assert asked[-4:] == ["trainer.num_nodes=2", "trainer.devices=8", "name=a", "res=128"]
    del machines["HEAD"]
    refused = run_script("torchrun/train.sh", "name=a", folder=tmp_path, **machines)
    assert "HEAD=node1:29500" in refused.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize(
    "script", sorted(path.relative_to(SCRIPTS).as_posix() for path in SCRIPTS.rglob("*.s*h"))
)
def test_shellcheck(script: str) -> None:
    checked = subprocess.run(
        ["shellcheck", str(SCRIPTS / script)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
