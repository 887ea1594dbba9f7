"""Train as a job: python launch/submit.py [CONFIG.toml] [key=value …] [--cluster=local] [--nodes=4] [--gpus-per-node=8] …

The options are those of hbdist.launch.Resources; without --cluster it is a Slurm job.
"""

import sys

from hbdist import HbdistError, submit
from hbdist.config.config import parse_override, split_arguments

words = sys.argv[1:]
options = dict(parse_override(word[2:]) for word in words if word.startswith("--"))
config, overrides = split_arguments([word for word in words if not word.startswith("--")])
try:
    print("submitted:", submit(config, *overrides, **{key.replace("-", "_"): value for key, value in options.items()}))
except HbdistError as error:
    sys.exit(f"hbdist: {error}")
