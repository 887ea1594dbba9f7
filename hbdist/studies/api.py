"""Python interface of a study: load, start, watch and stop its runs."""

from typing import Any

from hbdist.launch import Handle
from hbdist.studies.status import RunStatus, statuses_of
from hbdist.studies.study import StudyRun, StudySpec
from hbdist.studies.submit import Submission, cancel, submit


class Study(StudySpec):
    """Grid of runs that can be started, watched and stopped. Make it with `Study.load`."""

    def status(self) -> list[RunStatus]:
        """Return how far each run is; see `status.status_of`."""
        return statuses_of(self)

    def missing(self) -> list[StudyRun]:
        """Return the runs of which a training or a measurement is not done yet."""
        return [status.run for status in self.status() if not status.complete]

    def submit(self, *, set_aside: bool = False, **resources: Any) -> Submission:
        """Start what is missing: trainings, evaluations, the report; see `submit.submit`.

        Args:
            set_aside: move folders away that hold another run than the study now wants, and train anew.
            resources: override those in [resources]: cluster="slurm", nodes=4, at_once=2 …
        """
        return submit(self, resources, set_aside=set_aside)

    def retry(self, **resources: Any) -> Submission:
        """Start what is missing and what failed."""
        return submit(self, resources, again=True)

    def cancel(self) -> list[Handle]:
        """Stop all jobs that wait or run; returns their handles."""
        return cancel(self)
