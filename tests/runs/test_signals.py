"""Stop signals: the first raises a flag that the run checks between steps; a later one ends the process."""

import os
import signal
import subprocess
import sys

import pytest

from hbdist.runs.signals import STOP_SIGNALS, StopFlag


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_raises_the_flag_and_its_echo_does_no_harm(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    flag = StopFlag().listen()
    try:
        assert not flag.raised
        for _ in range(3):
            signal.raise_signal(number)
            assert flag.raised
    finally:
        flag.forget()
    assert signal.getsignal(number) is before


TWICE = (
    "import signal; import hbdist.runs.signals as s; s.ECHO_S = 0; s.StopFlag().listen();"
    "signal.raise_signal(signal.SIGTERM); print('lives', flush=True); signal.raise_signal(signal.SIGTERM); print('on')"
)


def test_a_second_signal_later_ends_the_process() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    process = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert process.stdout == "lives\n"
    assert process.returncode == -signal.SIGTERM


def test_in_a_slurm_job_later_signals_do_not_end_a_process_that_may_be_saving() -> None:
    environment = os.environ | {"SLURM_JOB_ID": "17"}
    process = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (process.stdout, process.returncode) == ("lives\non\n", 0)
