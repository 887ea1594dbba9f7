"""Python interface of a study: load it, start, watch and stop its runs."""

from typing import Any

from hbdist.launch import Handle
from hbdist.studies.status import RunStatus, statuses_of
from hbdist.studies.study import StudyRun, StudySpec
from hbdist.studies.submit import Submission, cancel, submit


class Study(StudySpec):
    """Grid of runs that can be started, watched and stopped. Create it with `Study.load`."""

    def status(self) -> list[RunStatus]:
        """Return the progress of each run; see `status.status_of`."""
        return statuses_of(self)

    def missing(self) -> list[StudyRun]:
        """Return the runs that are not trained or not measured in full yet."""
        return [status.run for status in self.status() if not status.complete]

    def submit(self, *, set_aside: bool = False, **resources: Any) -> Submission:
        """Start what is missing: trainings, evaluations, the report; see `submit.submit` for the arguments.

        Resources are keywords: cluster="slurm", nodes=4, at_once=2 …

        Raises:
            ConfigError: a resource is wrong, or a folder belongs to another form of a run.
        """
        return submit(self, resources, set_aside=set_aside)

    def retry(self, **resources: Any) -> Submission:
        """Start what is missing and what has failed.

        Raises:
            ConfigError: as in `submit`.
        """
        return submit(self, resources, again=True)

    def cancel(self) -> list[Handle]:
        """Stop all waiting and running jobs, and return their handles."""
        return cancel(self)
