"""Watch over the numbers of a run: what is not finite stops it, what looks wrong is noted in its line of the log."""

import math
from collections import deque
from statistics import median
from typing import Any

from hbdist.config.config import Config
from hbdist.errors import NotFiniteError

MOST_IN_A_ROW = 10
"""Number of updates in a row that may be left out with `optimizer.on_nonfinite = "skip"`."""
RECENT = 50
"""Number of steps whose gradients a step's is compared with; the first ones are compared with fewer."""
FEWEST = 10
JUMP, ABSURD = 100.0, 1e6
"""Gradient norms that are noted: this many times the recent median, or above this."""
ABOVE_CHANCE = 0.5
"""Loss above chance, as a mean over FEWEST steps, that is noted: guessing would be better."""
ALIKE = 0.995
"""Mean cosine of two documents above which the vectors count as collapsed; of untrained multilingual E5 it is about 0.8."""


class NumberWatch:
    """Watch of one run, on every rank with the same numbers, so that all decide alike."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._norms: deque[float] = deque(maxlen=RECENT)
        self._above: deque[float] = deque(maxlen=FEWEST)
        self._left_out = 0

    def check(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return the metrics of a step, with `notes` on what looks wrong if anything does.

        Raises:
            NotFiniteError: the loss or the gradient is not finite, and such updates are not to be left out.
        """
        norm, loss, step = metrics["grad_norm"], metrics["loss"], metrics["step"]
        if math.isfinite(norm) and math.isfinite(loss):
            self._left_out = 0
            notes = self._notes(metrics)
            return metrics | {"notes": notes} if notes else metrics
        self._left_out += 1
        # A finite gradient of a loss that is not has been applied: that cannot be left out any more.
        if self.config.optimizer.on_nonfinite == "stop" or math.isfinite(norm) or self._left_out > MOST_IN_A_ROW:
            in_a_row = f", the {self._left_out}th in a row" if self._left_out > MOST_IN_A_ROW else ""
            raise NotFiniteError(
                f"step {step}: the gradient's norm is {norm} and the loss {loss}{in_a_row}; nothing was updated. `hbdist replay"
                f" {self.config.run.folder} --step {step}` shows which texts and which part of the model. A lower optimizer.lr,"
                ' more optimizer.warmup_steps or a higher loss.temperature usually helps; optimizer.on_nonfinite="skip" leaves'
                " such updates out. The newest checkpoint was written before this step."
            )
        return metrics | {"notes": ["not finite: no update"]}

    def _notes(self, metrics: dict[str, Any]) -> list[str]:
        norm, notes = metrics["grad_norm"], []
        if norm > ABSURD:
            notes.append(f"diverging: |g| is {norm:.1e}")
        elif len(self._norms) >= FEWEST and norm > JUMP * median(self._norms):
            notes.append(f"diverging: |g| is {norm / median(self._norms):,.0f} times the recent median")
        self._norms.append(norm)
        self._above.append(metrics["loss_above_chance"])
        if len(self._above) == FEWEST and sum(self._above) / FEWEST > ABOVE_CHANCE:
            notes.append(f"the loss has been above chance for {FEWEST} steps")
        if metrics["pairs"] > 1 and metrics["document_cosine"] > ALIKE:
            notes.append(f"collapsed: two documents' mean cosine is {metrics['document_cosine']:.4f}")
        if metrics["pairs"] > 1 and metrics["candidates"] < 1.5:
            notes.append("nothing to tell apart: the batch's documents are alike, and masked")
        return notes
