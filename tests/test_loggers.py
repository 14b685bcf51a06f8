"""The table of scalars: rows and columns as they come, whole after any kill, continued where a
run goes on.
"""

from pathlib import Path

from cstl.run_folder import read_metrics as read_rows
from cstl.running.metrics_log import CSVLog


def test_rows_and_columns_as_they_come(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.log_metrics({"train/loss": 1.5}, step=1)
    log.save()
    log.log_metrics({"train/loss": 0.25}, step=2)
    log.log_metrics({"test/rank1/NM": 50.0}, step=2)
    log.finalize("success")
    assert (
        tmp_path / "metrics.csv"
    ).read_text() == "step,test/rank1/NM,train/loss\n1,,1.5\n2,,0.25\n2,50.0,\n"
    rows = [{"step": 1, "train/loss": 1.5}, {"step": 2, "train/loss": 0.25}, {"step": 2, "test/rank1/NM": 50}]
    assert read_rows(tmp_path / "metrics.csv") == rows


def test_a_run_goes_on_behind_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/loss\n1,3.0\n2,2.0\n12,0.5\n1")  # the last line was cut: 13 or 1000
    log = CSVLog(tmp_path)
    log.resume(step=2)
    assert file.read_text() == "step,train/loss\n1,3.0\n2,2.0\n"
    log.log_metrics({"train/loss": 1.0}, step=3)
    log.save()
    assert file.read_text() == "step,train/loss\n1,3.0\n2,2.0\n3,1.0\n"
    CSVLog(tmp_path).resume(step=0)
    assert not file.exists()
