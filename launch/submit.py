"""Training as a job: python launch/submit.py [CONFIG.toml] [key=value …] [--cluster=local] [--nodes=4] [--gpus-per-node=8] …

The options are the fields of hbdist.launch.Resources; without --cluster the job runs on Slurm.
"""

import sys

from hbdist import HbdistError, submit
from hbdist.config.config import parse_override, split_arguments

arguments = sys.argv[1:]
options = dict(parse_override(word[2:]) for word in arguments if word.startswith("--"))
config, overrides = split_arguments([word for word in arguments if not word.startswith("--")])
try:
    print("submitted:", submit(config, *overrides, **{key.replace("-", "_"): value for key, value in options.items()}))
except HbdistError as error:
    sys.exit(f"hbdist: {error}")
