"""`python3 tests/slurm_cluster up | down | kill NODE | start NODE [--folder FOLDER]`: an emulated Slurm cluster, by hand."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from slurm_cluster.cluster import Cluster, home
from slurm_cluster.daemons import MissingError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/slurm_cluster", description=__doc__)
    parser.add_argument("verb", choices=["up", "down", "kill", "start"])
    parser.add_argument("node", nargs="?", help="of kill and start: node1, node2 …")
    parser.add_argument("--folder", type=Path, default=home(), help="of the cluster (default: %(default)s)")
    given = parser.parse_args()
    if (given.node is None) == (given.verb in ("kill", "start")):
        parser.error(f"{given.verb} {'needs' if given.node is None else 'takes no'} node")
    if given.verb == "up":
        try:
            Cluster.up(given.folder)
        except MissingError as error:
            print(error, file=sys.stderr)
            return 2
        print(f". {given.folder}/env.sh")
        return 0
    if not (given.folder / "cluster.json").is_file():
        print(f"no cluster is up in {given.folder}", file=sys.stderr)
        return 0 if given.verb == "down" else 2
    cluster = Cluster.of(given.folder)
    if given.verb == "down":
        cluster.down()
    elif given.node not in cluster.nodes:
        parser.error(f"{given.node} is none of {', '.join(cluster.nodes)}")
    elif given.verb == "kill":
        cluster.kill_node(given.node)
    else:
        cluster.start_node(given.node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
