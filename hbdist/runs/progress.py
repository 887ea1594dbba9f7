"""Progress line of a run."""

from typing import Any


def progress_line(metrics: dict[str, Any], *, steps: int, rate: float) -> str:
    """Format one line with stable columns; `rate` is the recent number of steps per second."""
    step, seconds = metrics["step"], metrics["seconds"]
    left = (steps - step) / rate if rate else 0
    notes = "".join(f"  ! {note}" for note in metrics.get("notes", ()))
    return (
        f"step {step:>{len(str(steps))}}/{steps} {step / steps:>4.0%}"
        f"  {'mono ' if metrics['mono_share'] == 1 else 'cross' if metrics['mono_share'] == 0 else 'mixed'}"
        f"  loss {metrics['loss']:>6.3f} ({metrics['loss_above_chance']:+.2f} to chance)"
        f"  acc {metrics['accuracy']:>4.0%}  |g| {metrics['grad_norm']:>6.2f}  lr {metrics['lr']:.1e}"
        f"  {metrics['pairs'] / seconds:>6,.0f} pairs/s  {metrics['tokens'] / seconds:>9,.0f} tok/s"
        f"  pad {metrics['padding']:>4.0%}  {metrics['peak_bytes'] / 1e9:>5.1f} GB"
        f"  data {metrics['data_seconds'] / seconds:>4.0%}  eta {int(left // 60)}m{int(left % 60):02d}{notes}"
    )


def is_worth_a_line(step: int, steps: int) -> bool:
    """Check that a log, which keeps every line, gets one for this update: all at first, then fewer and fewer."""
    interval = 1 if step <= 50 else 10 if step <= 500 else 100
    return step % interval == 0 or step == steps
