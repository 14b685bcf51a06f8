"""What people mistype ends in one sentence before anything starts: what was expected and found,
and what to type.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from cstl.checkpoint import load_weights
from cstl.data.protocol import Protocol
from cstl.evaluate import evaluate
from cstl.models import CSTL, AblatedCSTL
from cstl.reporting.folder import read_run
from cstl.running import streams, typed
from cstl.running.refusals import expected
from cstl.train import train

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with slips of every kind in it."""
    folder = tmp_path_factory.mktemp("my")
    files = {
        "dataset/mine": "defaults: [casiab]\nname: mine\n",
        "dataset/recipe": "defaults: [casiab]\nrecipe:\n  frames: 5\n",
        "dataset/protocol": "defaults: [casiab]\nprotocol:\n  galery: [nm-01]\n",
        "dataset/top": "defaults: [casiab]\ntitel: Mine\n",
        "dataset/untitled": "defaults: [casiab]\ntitle: ''\n",
        "dataset/short": "defaults: [casiab]\nprotocol: null\n",
        "ablation/mine": "scales: [frame]\n",
        "recipe/cstl_mine": "data:\n  frames: 5\n",
        "experiment/old": "# @package _global_\nmodel:\n  margin: 0.3\n",
        "dataset/tabs": "name: tabs\nrecipe:\n\tframes: 3\n",
        "dataset/open": "name: [tabs\nrecipe: 3\n",
        "dataset/home": "defaults: [casiab]\nname: home\nraw: ~/silhouettes\n",
        "experiment/key": "# @package _global_\nmodel:\n  margn: 0.3\n",
        "experiment/choice": "# @package _global_\ndefaults:\n  - override /dataset: casiba\n",
        "experiment/own": "# @package _global_\nrate: 0.001\nmodel: {optimizer: {lr: '${rate}'}}\n",
        "experiment/group": "# @package _global_\ndefaults:\n  - override /datset: casiab\n",
        "experiment/slash": "# @package _global_\ndefaults:\n  - override dataset: casiab\n",
        "experiment/twice": "# @package _global_\ndefaults:\n  - /dataset: mine\n",
        "experiment/package": "model:\n  margin: 0.3\n",
        "experiment/list": "# @package _global_\n- a\n",
        "dataset/cut": "defaults: [casiab]\nname: ${foo\n",
        "dataset/round": "defaults: [casiab]\ntitle: ${dataset.title}\n",
        "model/other": "defaults: [base, _self_]\nnetwork:\n  _target_: torch.nn.Linear\n  in_features: 2\n",
        "model/nowhere": "defaults: [cstl]\nnetwork:\n  _target_: nowhere.Network\n",
    }
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (folder / "dataset" / "latin.yaml").write_bytes("defaults: [casiab]\ntitle: Müll\n".encode("latin-1"))
    return folder


SLIPS = [  # what is typed, what is answered
    # choices
    ("train experiment=dmo",
     r"no experiment=dmo; did you mean demo\? There are: ablation, .*demo, .*profile"),
    ("train -m hparams_search=optnua", r"did you mean optuna\?"),
    ("evaluate dataset=casib", r"did you mean casiab\? There are: casiab, oumvlp"),
    ("train dataset=CASIA-B", r"did you mean casiab\?"),
    ("train logger=[csv,wandbb]", r"no logger=wandbb; did you mean wandb\?"),
    ("train -m ablation=none,frame_olny", r"did you mean frame_only\?"),
    ("train model=without_ssfl", r"it is a choice of another group: type ablation=without_ssfl$"),
    ("train -m model=cstl,frame_only", r"another group: type ablation=frame_only$"),
    ("train hydra/launcher=jolib", r"did you mean joblib\?"),
    ("train +experiment=demo", r"type experiment=demo, once and without the \+"),
    ("train model=null",
     r"model=null: a group is set to the name of one of its files; model takes base, cstl, "),
    ("train --config-dir={conf} dataset=mien", r"did you mean mine\?.*casiab.*mine"),
    ("train --config-dir={conf} experiment=choice", r"no dataset=casiba.*did you mean casiab\?"),
    ("train --config-dir=nowhere", r"no such folder"),
    ("train dataset=CASIA", r"did you mean casiab\?"),
    ("train dataset=my/dataset/tiny.yaml", r"expected a name, found a path.*--config-dir=my dataset=tiny$"),
    ("train dataset=[casiab,oumvlp]",
     r"dataset takes one name.*python -m cstl\.train -m dataset=casiab,oumvlp"),
    ("train ablation=none,frame_only",
     r"has a comma: each .* python -m cstl\.train -m ablation=none,frame_only$"),
    ("train -m model=glob(x*)", r"model=glob\(x\*\) names nothing to try"),
    ("train --config-path=nowhere", r"--config-path=nowhere: no such folder"),
    ("train --config-dir={conf} experiment=group",
     r"experiment/group\.yaml overrides datset.*did you mean dataset\?"),
    ("train --config-dir={conf} experiment=slash", r"experiment/slash\.yaml: .*override /dataset: NAME"),
    ("train --config-dir={conf} experiment=twice",
     r"chosen twice.*experiment=twice: .*type override /dataset: NAME"),
    ("train --config-dir={conf} experiment=package", r"would change nothing: .*'# @package _global_'"),
    ("train +experiment.seed=3", r"experiment would change nothing"),
    ("train --config-dir={conf} model=other ablation=frame_only",
     r"ablation=frame_only is one of CSTL, and model=other is another network: leave ablation= out"),
    # keys
    *((f"train ~{key}", rf"^{key} is needed, and was left out") for key in ("name", "dataset", "trainer")),
    ("train ~dataset=casiab", r"~dataset=casiab leaves nothing out"),
    ("train ~", r"'~' is no setting: to leave something out type ~KEY"),
    ("train ~~seed", r"to leave something out type ~KEY"),
    ("train /experiment=demo", r"no key /experiment; did you mean experiment=demo\?"),
    ("train +++seed=3", r"did you mean seed=3\?"),
    ("train @x=3", r"there is no key @x$"),
    ("train dataset@x=casiab", r"did you mean dataset=casiab\?"),
    ("train model..margin=3", r"did you mean model\.triplet\.margin=3\?"),
    ("train modèle=cstl", r"no key modèle; did you mean model=cstl\?"),
    ("train frames=20", r"did you mean data\.frames\?"),
    ("train +dataset.title=x", r"dataset\.title is there already: type dataset\.title=x, without the \+"),
    ("train trainer.gradient_clip_val=1.0", r"type \+trainer\.gradient_clip_val=1\.0$"),
    ("train datset=casiab", r"no key datset; did you mean dataset\? There are: .*baseline, .*seed"),
    ("train +datset=casiab", r"no key datset: nothing reads it.*did you mean dataset\?"),
    ("train model.margn=0.3",
     r"model has no key margn; did you mean model\.triplet\.margin\? There are: .*triplet"),
    ("train ++model.margn=0.3",
     r"model has no key margn: nothing reads it.*did you mean model\.triplet\.margin\?"),
    ("train margin=0.3", r"did you mean model\.triplet\.margin\?"),
    ("train dataset.recipe.frames=5",
     r"dataset\.recipe\.frames is data\.frames since 0\.2: type data\.frames=5$"),
    ("train +model.margin=0.3",
     r"model\.margin is model\.triplet\.margin since 0\.2: type model\.triplet\.margin"),
    ("train data=prepared", r"data=prepared: expected keys with values, as data\.frames=30"),
    ("train +data.frame=5", r"data has no key frame: nothing reads it.*did you mean frames\?"),
    ("train data.clips=thinned", r"data has no key clips; did you mean clip\?"),
    ("train +dataset.protocol.galery=[nm-01]",
     r"dataset\.protocol has no key galery.*did you mean gallery\?"),
    ("train +dataset.protocol.splits.XL.trian=[1]", r"splits\.XL: expected train and test.*found trian"),
    ("train +model.network.chanels=[1]", r"model\.network has no key chanels.*did you mean channels\?"),
    ("train +trainer.max_step=4", r"trainer has no key max_step.*did you mean max_steps\?"),
    ("train trainer.strategy=ddp", r"type \+trainer\.strategy=ddp"),
    ("train +trainer.limit_test_batches=2",
     r"would not be heeded; in its place type dataset\.protocol\.test"),
    ("train +callbacks.chekpoints.every=5", r"callbacks has no key chekpoints.*did you mean checkpoints\?"),
    ("train +callbacks.checkpoints.evry=5", r"callbacks\.checkpoints has no key evry.*did you mean every\?"),
    ("train +logger.mode=offline", r"logger has no key mode: nothing reads it"),
    ("train hydra.run.dri=x", r"hydra\.run has no key dri; did you mean dir\?"),
    ("train seed.x=5", r"seed is a single value"),
    ("train ~seeed", r"no key seeed to delete"),
    ("train -m hparams_search=optuna model.margn=interval(0.1,0.4)",
     r"no key margn; did you mean .*margin\?"),
    ("prepare datasets=casiab", r"did you mean dataset\?"),
    ("export checkpont=x", r"did you mean checkpoint\? There are: checkpoint, form, out, to"),
    ("train --config-dir={conf} dataset=recipe", r"dataset\.recipe is a file of its own since 0\.2"),
    ("prepare --config-dir={conf} dataset=recipe", r"dataset\.recipe is a file of its own"),
    ("train --config-dir={conf} experiment=old", r"model\.margin is model\.triplet\.margin since 0\.2"),
    ("train --config-dir={conf} ablation=mine", r"lacks the first line '# @package model\.network'"),
    ("train --config-dir={conf} dataset=mine",
     r"recipe would change nothing: .* first line '# @package _global_'"),
    ("train --config-dir={conf} dataset=protocol",
     r"dataset\.protocol has no key galery.*did you mean gallery\?"),
    ("train --config-dir={conf} dataset=top", r"dataset has no key titel.*did you mean title\?"),
    ("train --config-dir={conf} experiment=key",
     r"model has no key margn.*did you mean model\.triplet\.margin\?"),
    ("train --config-dir={conf} model=nowhere",
     r"model\.network\._target_=nowhere\.Network cannot be imported"),
    ("train model.losses=[{{loss:{{_target_:torch.nn.Identity}},wieght:2}}]",
     r"model\.losses\[0\] has no key wieght.*did you mean weight\?"),
    ("train model.augment=[{{_target_:cstl.data.augment.Flip,probablity:0.1}}]",
     r"model\.augment\[0\] has no key probablity.*did you mean probability\?"),
    ("train model.optimizer={{_target_:torch.optim.SGD,_partial_:true,lr:0.1,momentum:0.9}}",
     r"not all of these keys in its file: type '\+model\.optimizer=\{.*momentum:0\.9\}', which sets"),
    # words
    ("train casiab", r"'casiab' is no setting: expected KEY=VALUE; did you mean dataset=casiab\?"),
    ("evaluate x.ckpt", r"did you mean checkpoint=x\.ckpt\?"),
    ("train res:128", r"such as res=128"),
    ("train --res 128", r"--res is no option: settings are typed KEY=VALUE, without dashes: res=128"),
    ("train --res=128", r"without dashes: res=128"),
    ("train --margin 0.2", r"without dashes: model\.triplet\.margin=0\.2"),
    ("train --config_dir=my", r"did you mean --config-dir\?"),
    ("train --config-dir", r"--config-dir needs a value"),
    ("train --resolve", r"--resolve goes with --cfg"),
    ("train dataset = casiab", r"one word, without spaces around =: dataset=casiab"),
    ("train dataset= casiab", r"without spaces around =: dataset=casiab"),
    ("train dataset =casiab", r"without spaces around =: dataset=casiab"),
    ("train seed=1,2",
     r"a list is typed 'seed=\[1,2\]', each value in turn python -m cstl\.train -m seed=1,2"),
    ("train seed=choice(1,2)", r"add -m, python -m cstl\.train -m seed=choice\(1,2\)"),
    ("train model.network.channels=[16,32", r"cannot be read: it has 1 \[ and 0 \]"),
    ("train dataset.title='abc", r"a ' is not closed"),
    ("train seed=${{foo}}", r"seed is \$\{foo\}, but foo is not there"),
    ("train seed=${{oc.env:NOPE}}", r"seed cannot be worked out: \"Environment variable 'NOPE' not found"),
    ("train name=run_${{model.margn}}", r"model\.margn is not there; did you mean model\.triplet\.margin\?"),
    ("train name=x${{nwo:%Y}}", r"name cannot be worked out: Unsupported interpolation type nwo"),
    ("train -m seed=1, 2", r"one word, without spaces after commas: seed=1,2"),
    ("train -m seed=range(1,b)", r"range takes other values, such as 'seed=range\(1,4\)'"),
    ("train -m model.triplet.margin=interval(0.1,0.4)",
     r"an interval by a search alone: add hparams_search=optuna"),
    ("train -m hparams_search=optuna model.triplet.margin=interval(0.4,0.1)", r"begins above its end"),
    ("train -m hparams_search=optuna model.triplet.margin=tag(log,interval(0.4,0.1))",
     r"begins above its end"),
    ("train -m model.triplet.margin=interval(a,b)", r"interval takes other values"),
    ("train –config-dir=my", r"begins with a dash that is no hyphen: type --config-dir=my"),
    ("train −m", r"type -m$"),
    ("train --cfg jobs", r"^--cfg: invalid choice: 'jobs' \(choose from"),
    ("train --info nonsense", r"^--info: invalid choice"),
    ("train -p model", r"--package goes with --cfg"),
    # YAML
    ("train --config-dir={conf} dataset=latin", r"dataset/latin\.yaml: expected a text in UTF-8"),
    ("train --config-dir={conf} dataset=cut", r"cannot be worked out: it has no end: '\$\{foo'"),
    ("train --config-dir={conf} dataset=round", r"cannot be worked out: Recursive interpolation"),
    ("train --config-dir={conf} experiment=list",
     r"experiment/list\.yaml: expected KEY: VALUE.*found a list"),
    ("train --config-dir={conf} dataset=tabs",
     r"tabs\.yaml, line 3, column 1: a tab; YAML is indented with spaces"),
    ("train --config-dir={conf} dataset=open", r"open\.yaml, line 2.*expected KEY: VALUE"),
    ("train --config-dir={conf} dataset=short", r"dataset\.protocol=null: expected keys with values"),
    ("train --config-dir={conf} dataset=untitled", r"dataset\.title: expected a text, found nothing"),
    # values
    *((f"train {key}={value}", rf"{key}=\S*: expected .*whole number") for key, value in [
        ("data.frames", -3), ("data.frames", 8.5), ("data.subjects", "four"),
        ("trainer.max_steps", 0), ("evaluate_every", 0), ("evaluate_every", -1),
         ("callbacks.checkpoints.every", 0),
        ("data.workers", -1), ("data.eval_frames", 0), ("trainer.log_every_n_steps", 0), ("seed", -1),
         ("seed", 2**32),
        ("dataset.synthesis.frames", 0), ("callbacks.checkpoints.keep", 0), ("data.frames", ""),
    ]),
    *((f"train {key}={value}", rf"{key}=\S+: expected a number") for key, value in [
        ("model.triplet.margin", -1), ("model.triplet.margin", "abc"), ("model.optimizer.lr", 0),
        ("model.optimizer.lr", "nan"), ("model.optimizer.lr", -1e-4),
        ("model.cross_entropy.label_smoothing", 1.5), ("model.optimizer.lr", "inf"),
         ("model.scheduler.gamma", 2),
        ("model.triplet.margin", "true"), ("model.triplet.weight", "null"),
    ]),
    ("train model.augment=[{{_target_:cstl.data.augment.Flip,probability:2}}]",
     r"model\.augment\[0\]\.probability=2: expected a number of at least 0 and at most 1$"),
    ("train model.losses=[{{loss:{{_target_:torch.nn.Identity}},weight:-1}}]",
     r"model\.losses\[0\]\.weight=-1: expected a number of at least 0$"),
    ("train trainer.max_steps=-1", r"expected at least 1 iteration"),
    ("train -m model.triplet.margin=0.1,-1", r"model\.triplet\.margin=-1: expected"),
    ("train data.subjects=1", r"a batch of one subject has no triplets"),
    ("train data.sequences=1", r"a batch of one sequence of a subject has no triplets"),
    ("train model.triplet.weight=0 model.cross_entropy.weight=0", r"leave no loss"),
    ("train model.triplet=null model.cross_entropy=null", r"leave no loss"),
    ("train model.network.channels=16", r"channels=16: expected three widths"),
    ("train model.network.channels=[16,32]", r"expected three widths"),
    ("train model.scheduler.milestones=75", r"expected a list of iterations"),
    ("train model.triplet.mining=semi", r"expected one of all, hard"),
    ("train trainer.precision=16-true", r"trainer\.precision=16-true: expected one of 32-true, bf16-mixed"),
    ("train trainer.precision=fp32", r"expected one of 32-true"),
    ("train trainer.devices=0", r"trainer\.devices=0: expected how many"),
    ("train res=65", r"res=65: expected one of 64 \(64x44\), 128"),
    ("train report=maybe", r"report=maybe: expected true or false"),
    ("train name=null", r"name=null: expected a name"),
    ("train callbacks.checkpoints=null", r"to leave it out type ~callbacks\.checkpoints"),
    ("train dataset.protocol=5", r"dataset\.protocol=5: expected keys"),
    ("train dataset.protocol.test=[]", r"expected at least one test subject, found none"),
    ("train dataset.protocol.train=[]", r"no training subject, only 16.*python -m cstl\.evaluate"),
    ("train dataset.protocol.gallery=[]", r"gallery: expected at least one, found none"),
    ("train dataset.protocol.train=[001-0x4]", r'"001-0x4" looks like a range and is none'),
    ("evaluate dataset=casiab max_frames=0", r"max_frames=0: expected a whole number of at least 1, or null"),
    ("prepare workers=-1", r"workers=-1: expected a whole number of at least 1, or null: all cores"),
    ("check sequences=0", r"sequences=0: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "answer"), SLIPS, ids=[line for line, _ in SLIPS])
def test_a_slip_is_answered(line: str, answer: str, conf: Path) -> None:
    name, *words = line.format(conf=conf).split(" ")
    with pytest.raises(ValueError, match=answer):
        typed.read(name, words)


@pytest.mark.parametrize(("line", "key", "value"), [
    ("prepare dataset.raw=~/X", "dataset.raw", os.path.expanduser("~/X")),
    ("prepare dataset.raw=/data/é_ö", "dataset.raw", "/data/é_ö"),
    ("prepare dataset.raw=/data/a=b", "dataset.raw", "/data/a=b"),
    ("prepare dataset.raw=/data/(1),2'\"", "dataset.raw", "/data/(1),2'\""),
    ("prepare dataset.raw=C:\\data\\", "dataset.raw", "C:\\data\\"),
    ("prepare dataset.raw=2024", "dataset.raw", "2024"),
    ("evaluate checkpoint=runs/a=b,c.ckpt", "checkpoint", "runs/a=b,c.ckpt"),
    ("evaluate checkpoint='a=b.ckpt'", "checkpoint", "a=b.ckpt"),
    ("train name=1e3", "name", "1e3"),
    ("train name=步态", "name", "步态"),
    ("train dataset.title=日本", "dataset.title", "日本"),
    ("train dataset.protocol.train=[é,001-004] dataset.protocol.test=[ö]", "dataset.protocol.train",
     ["é", "001-004"]),
    ("train init_from=null", "init_from", None),
    ("train -m name=é,b seed=3", "name", "b"),
    ("train seed=3 --config-dir={conf} experiment=own -m name=a,b", "model.optimizer.lr", 0.001),
    ("train -m ablation=glob(frame*)", "model.network.scales", ["frame"]),
    ("train +trainer.gradient_clip_val=1.0", "trainer.gradient_clip_val", 1.0),
    ("train +model.optimizer={{_target_:torch.optim.SGD,momentum:0.9}}", "model.optimizer.momentum", 0.9),
    ("train --config-dir={conf} experiment=own", "model.optimizer.lr", 0.001),
    ("train --config-dir={conf} dataset=home", "dataset.raw", os.path.expanduser("~/silhouettes")),
])  # fmt: skip
def test_what_can_be_meant_works(line: str, key: str, value: object, conf: Path) -> None:
    """What Hydra gets is composed as it composes it, and read a second time it stays the same."""
    name, *words = line.format(conf=conf).split(" ")
    readable = typed.read(name, words)
    assert typed.read(name, readable) == readable
    given = typed.get_args_parser().parse_args(readable)
    jobs = typed._jobs(given.overrides, typed._loader(given))[0] if given.multirun else [given.overrides]
    config = typed._composed(name, jobs[-1], typed._loader(given))
    typed.expand_home(config)
    assert OmegaConf.select(config, key) == value


@pytest.mark.parametrize("entry", [
    "001-0x4", "001-", "001 - 074", "001–074", "001..074", "001:074", "a01-a10", "a01..a10", "001-074:x",
    "1-2-3",
])  # fmt: skip
def test_a_range_that_is_none_is_no_name(entry: str, protocol: Protocol) -> None:
    with pytest.raises(ValueError, match=r"train: .* looks like a range and is none"):
        Protocol(**{**vars_of(protocol), "train": [entry]})


@pytest.mark.parametrize("name", ["s-01", "subject_1", "P1-left", "a01-b02", "éa", "1a", "id-001-a", "S1-2"])
def test_names_with_signs_are_names(name: str, protocol: Protocol) -> None:
    assert Protocol(**{**vars_of(protocol), "train": [name]}).train_subjects == (name,)


def vars_of(protocol: Protocol) -> dict:
    return {name: getattr(protocol, name) for name in protocol.__dataclass_fields__}


def test_an_evaluation_names_the_newest_checkpoint(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configured("evaluate", "trainer=cpu")
    with pytest.raises(
        ValueError, match=r"which checkpoint\?.*\n  python -m cstl\.evaluate checkpoint=runs/NAME"
    ):
        evaluate(config)
    (tmp_path / "runs" / "é b" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "é b" / "checkpoints" / "step-0000001.ckpt").touch()
    with pytest.raises(
        ValueError, match=r"cstl\.evaluate 'checkpoint=runs/é b/checkpoints/step-0000001\.ckpt'"
    ):
        evaluate(config)
    for folder in ("runs/é b", "runs/é b/checkpoints"):
        with pytest.raises(
            ValueError, match=r"is a folder; .*\n.* 'checkpoint=runs/é b/checkpoints/step-0000001\.ckpt'"
        ):
            evaluate(configured("evaluate", "trainer=cpu", f"checkpoint='{folder}'"))
    with pytest.raises(ValueError, match="runs is a folder without a checkpoint"):
        evaluate(configured("evaluate", "trainer=cpu", "checkpoint=runs"))


def test_split_files_with_test_subjects_only_are_for_evaluation(
    configured: Configure, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    split.write_text('{"TRAIN_SET": [], "TEST_SET": ["005", "006"]}')
    key = (f"+dataset.split_file={split}",)
    with pytest.raises(
        ValueError, match=r"split\.json names no training subject, only 2.*python -m cstl\.evaluate"
    ):
        train(configured("train", "dataset=tiny", "trainer=cpu", *key))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "ascii", "latin-1"])
def test_every_sign_can_be_printed(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w", encoding=encoding) as file:
        monkeypatch.setattr(sys, "stdout", file)
        streams.never_fail()
        print("64×44 −1.5 … ± → │ é 步 \udc80")
        sys.stdout.flush()
    text = (tmp_path / "log.txt").read_bytes().decode(encoding)
    assert text.startswith("64")
    assert "1.5 " in text


def test_a_reader_that_goes_away_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        streams.never_fail()
        os.close(reading)
        for _ in range(1000):
            print("a line of the log")
        sys.stdout.flush()
        assert isinstance(sys.stdout, io.TextIOWrapper)
    monkeypatch.setattr(sys, "stdout", None)
    streams.never_fail()
    print("nobody hears this")


def test_a_slip_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    """A process, in an encoding without our signs: no traceback, no help of Hydra's, nothing left behind."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [sys.executable, "-m", "cstl", "train", "dataset=ünknown"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no dataset=\\xfcnknown")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_errors_that_hydra_wraps_are_told_without_its_account(configured: Configure) -> None:
    with pytest.raises(Exception, match="reduction") as wrapped:
        train(configured("train", "dataset=tiny", "trainer=cpu", "model.network.reduction=7"))
    told = expected(wrapped.value)
    assert told is not None
    assert told.startswith("reduction=7 does not divide the last of channels, 16")
    assert expected(RuntimeError("a fault of ours")) is None


def test_a_state_dict_of_our_own_network_is_a_checkpoint(configured: Configure, tmp_path: Path) -> None:
    network = CSTL(height=64, num_classes=3, channels=(2, 4, 16))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    torch.save(
        {f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "parallel.pt"
    )
    for name in ("a.pt", "parallel.pt"):
        weights = load_weights(tmp_path / name)
        assert weights.config is None
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in weights.state_dict.items())
    config = configured(
        "evaluate", f"checkpoint={tmp_path}/a.pt", "dataset=tiny", "trainer=cpu", folder="own"
    )
    found = evaluate(config)
    assert found["trained_on"] == "weights without a configuration"
    assert (tmp_path / "own" / "command.txt").read_text().startswith("python -m cstl.evaluate ")
    given = (
        "dataset=tiny",
        "trainer=cpu",
        "trainer.max_steps=1",
        "data.workers=0",
        f"init_from={tmp_path}/a.pt",
    )
    train(configured("train", *given))
    small = AblatedCSTL(height=64, num_classes=3, channels=(2, 4, 16), scales=["frame"])
    torch.save(small.state_dict(), tmp_path / "ablated.pt")
    with pytest.raises(ValueError, match=r"ablated\.pt is refused: "):
        evaluate(configured("evaluate", f"checkpoint={tmp_path}/ablated.pt", "dataset=tiny", folder="b"))


def test_the_command_is_that_of_the_first_start(configured: Configure, tmp_path: Path) -> None:
    given = ("dataset=tiny", "trainer=cpu", "trainer.max_steps=1", "data.workers=0")
    train(configured("train", *given, "model.triplet.margin=0.3"))
    first = (tmp_path / "run" / "command.txt").read_text(encoding="utf-8")
    assert "model.triplet.margin=0.3" in first
    with pytest.raises(ValueError, match="finished"):
        train(configured("train", *given, "model.triplet.margin=0.3", "logger=csv"))
    assert (tmp_path / "run" / "command.txt").read_text(encoding="utf-8") == first
    assert "model.triplet.margin=0.3" in str(read_run(tmp_path / "run").command)
    assert "name=run-again" in str(read_run(tmp_path / "run").command)


@pytest.mark.parametrize(("overrides", "message"), [
    (["dataset.protocol.test=['077']"],
     r"no gallery sequence of the protocol's test subjects: of 1 it has 0"),
    (["dataset.protocol.views=['045']"], r"no gallery sequence"),
])  # fmt: skip
def test_nobody_to_test_on_is_said_before_training(
    overrides: list[str], message: str, configured: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(configured("train", "dataset=tiny", "trainer=cpu", "data.workers=0", *overrides))
    assert not (tmp_path / "run" / "config.yaml").exists()
