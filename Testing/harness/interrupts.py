"""Give a child process the Ctrl-C that a person's shell would give it."""

import signal


def default_interrupt() -> None:
    """For ``preexec_fn``: a runner in the background ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
