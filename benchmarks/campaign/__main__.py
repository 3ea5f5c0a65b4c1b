"""Attacks the command lines and counts the attacks that they survive.

python -m benchmarks.campaign                            all; under an hour on 2 cores
python -m benchmarks.campaign kills damage --share 0.05  two campaigns, the first 5 % of each
python -m benchmarks.campaign kills --only 17            repeats one attack; keeps its folder
python -m benchmarks.campaign --project DIR              the programs of another checkout
"""

import signal
import sys

from benchmarks.campaign.director import main
from metarl.system.command_line import one_line_errors

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes temporary folders
    with one_line_errors("benchmarks.campaign"):
        sys.exit(main(sys.argv[1:]))
