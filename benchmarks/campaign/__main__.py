"""Attacks the command lines, and counts what they survive.

python -m benchmarks.campaign                            all of it; under an hour on 2 cores
python -m benchmarks.campaign kills damage --share 0.05  two campaigns, the first 5 % of each
python -m benchmarks.campaign kills --only 17            one attack again; its folder is kept
python -m benchmarks.campaign --project DIR              the programs of another checkout
"""

import signal
import sys

from benchmarks.campaign.director import main
from metarl.system.command_line import one_line_errors

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # temporary folders go in any case
    with one_line_errors("benchmarks.campaign"):
        sys.exit(main(sys.argv[1:]))
