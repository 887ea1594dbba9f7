"""Short form of the campaign, the same inputs every time: nothing but our own exceptions comes out of what reads files."""

import pytest

from fuzz.campaign import run
from fuzz.targets import TARGETS

INPUTS = 120
"""Inputs per target; slow ones get fewer."""


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused_with_a_sentence(name: str) -> None:
    tally = run(TARGETS[name], INPUTS)
    assert not list(tally.details(None))
    assert tally.refused > 0, "the mutations are too weak to be of use"
