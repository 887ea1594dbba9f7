"""Print the folder of the run that a config and its overrides name, for slurm/train.sh."""

import sys

from hbdist.config.config import Config, split_arguments
from hbdist.errors import HbdistError

try:
    print(Config.load(*split_arguments(sys.argv[1:])).run.folder)
except HbdistError as error:
    sys.exit(f"hbdist: {error}")
