"""`python3 tests/slurm_cluster up | down | kill NODE | start NODE [--folder FOLDER]`: run an emulated Slurm cluster by hand."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from slurm_cluster.cluster import Cluster, home
from slurm_cluster.daemons import MissingError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/slurm_cluster", description=__doc__)
    parser.add_argument("verb", choices=["up", "down", "kill", "start"])
    parser.add_argument("node", nargs="?", help="for kill and start: node1, node2 …")
    parser.add_argument("--folder", type=Path, default=home(), help="folder of the cluster (default: %(default)s)")
    options = parser.parse_args()
    if (options.node is None) == (options.verb in ("kill", "start")):
        parser.error(f"{options.verb} {'needs' if options.node is None else 'takes no'} node")
    if options.verb == "up":
        try:
            Cluster.up(options.folder)
        except MissingError as error:
            print(error, file=sys.stderr)
            return 2
        print(f". {options.folder}/env.sh")
        return 0
    if not (options.folder / "cluster.json").is_file():
        print(f"no cluster is up in {options.folder}", file=sys.stderr)
        return 0 if options.verb == "down" else 2
    cluster = Cluster.of(options.folder)
    if options.verb == "down":
        cluster.down()
    elif options.node not in cluster.nodes:
        parser.error(f"{options.node} is not one of {', '.join(cluster.nodes)}")
    elif options.verb == "kill":
        cluster.kill_node(options.node)
    else:
        cluster.start_node(options.node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
