"""Runs that are killed and go on with another number of ranks and another strategy."""

from kills import at_random
from material import Way
from trial import Trial, scenario

WAYS = [Way(), Way(2), Way(3), *(Way(2, zero) for zero in (1, 2, 3)), Way(3, 2), Way(3, 3)]
ONE_RESULT = ["model.dropout=0"]
"""Overrides without which the result depends on the ranks: which units drop out does."""


@scenario("elastic switch", share=3, short=True)
def another_number_of_ranks_or_strategy(trial: Trial) -> str:
    """Kill a run and let it go on in another way, perhaps twice: batches, losses and weights of one process."""
    ways = [trial.rng.choice(WAYS)]
    for _ in range(trial.rng.choice([1, 1, 2])):
        ways.append(trial.rng.choice([way for way in WAYS if way != ways[-1]]))
    trial.details["ways"] = [way.name for way in ways]
    for way in ways[:-1]:
        start = trial.start(way, *ONE_RESULT)
        killed = at_random(trial, way, start, "launcher and ranks")
        if killed is None:
            trial.wait(start)
        trial.wait_until_gone(start, since=killed)
    return trial.finish(ways[-1], of=ONE_RESULT, exact=False)
