"""python -m helpers.run [class ...]: see helpers/run/runner.py and helpers/run/classroom/class_run.py."""

import sys

from helpers.run import runner
from helpers.run.classroom import class_run

if __name__ == "__main__":
    if sys.argv[1:2] == ["class"]:
        sys.exit(class_run.main(sys.argv[2:]))
    sys.exit(runner.main(sys.argv[1:]))
