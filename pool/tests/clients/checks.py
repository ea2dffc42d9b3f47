"""What the scripts have in common: each check says what it saw, each script runs all it has."""

import sys
import traceback


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def refused(status, words, call):
    """The call is refused with this status, and the message has these words."""
    # Not before it is needed: not every script comes with Triton's clients.
    from tritonclient.utils import InferenceServerException

    try:
        call()
    except InferenceServerException as error:
        check(status in str(error.status()), f"status {error.status()} of: {error}")
        check(words in str(error), f"no `{words}` in: {error}")
    else:
        raise AssertionError(f"taken, where {status} was due")


def main(*tests):
    failed = 0
    for test in tests:
        try:
            test()
            print(f"ok {test.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {test.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)
