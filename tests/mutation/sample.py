"""Names of a seeded sample of each module's mutants, for `make mutants MUTANTS="$(python tests/mutation/sample.py 60)"`."""

import random
import sys

from mutmut.configuration import config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name


def sample(most: int) -> list[str]:
    """Return at most this many mutants of each module of `tool.mutmut.only_mutate`, always the same ones of the same source."""
    assert config().only_mutate
    names: list[str] = []
    for path in sorted(walk_mutatable_files()):
        mutated = mutate_file_contents(str(path), path.read_text(encoding="utf-8"), None, set())
        own = sorted(get_mutant_name(path, name) for name in mutated.mutant_names)
        names += random.Random(str(path)).sample(own, min(most, len(own)))
    return names


if __name__ == "__main__":
    print(" ".join(sample(int(sys.argv[1]))))
