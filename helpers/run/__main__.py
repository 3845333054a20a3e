"""`python -m helpers.run` executes the notebooks; `class` a whole class, `export` hands in."""

import sys

from helpers.results import ResultsError
from helpers.run import finish, runner
from helpers.run.classroom import command
from helpers.run.course_file import UsageError
from helpers.run.stopping import Stopped, everything_ends


def main(argv: list[str]) -> int:
    """0 all ran, 1 a notebook failed, 2 wrong usage or a full disk, 128 + signal when stopped."""
    named = {"class": command.main, "export": finish.main}.get(argv[0] if argv else "")
    try:
        with everything_ends():
            return named(argv[1:]) if named else runner.main(argv)
    except (UsageError, ResultsError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"The results could not be written: {error}. What is done is kept.", file=sys.stderr)
    except Stopped as stopped:
        print(f"\nStopped by {stopped}; nothing was left running.", stopped.so_far, file=sys.stderr)
        return 128 + stopped.number
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
