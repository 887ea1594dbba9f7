"""Runs, evaluations and reports as jobs: on a Slurm cluster, on this workstation, or in this process."""

from hbdist.launch.command import Command
from hbdist.launch.handle import Handle, JobError, find_handle
from hbdist.launch.resources import Resources
from hbdist.launch.submit import submit, submit_all

__all__ = ["Command", "Handle", "JobError", "Resources", "find_handle", "submit", "submit_all"]
