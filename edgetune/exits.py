"""How a process ended, in a sentence: the one translator of exit codes and signals."""

import signal

CODES = {
    0: ("done", ""),
    1: ("a bug of ours ended it", "see its log, and please report it"),
    2: ("its input is at fault", "see its log"),
    3: ("it was refused before it began", "see its log"),
    4: ("stopped early, everything is saved", "`edgetune resume` continues it"),
    5: ("a verification failed", "see its log"),
}
DAMAGED = "see its log; a damaged library or file may be the reason"
SIGNALS = {
    signal.SIGKILL: (
        "killed (signal 9): the system ran out of memory, or somebody ended it",
        "close other programs, or plan it smaller, and start it again",
    ),
    signal.SIGTERM: ("ended by signal 15: somebody, or the system on its way down, asked it to end", "start it again"),
    signal.SIGHUP: ("ended by signal 1: its terminal was closed", "start it with --detach, which outlives the terminal"),
    signal.SIGINT: ("ended by signal 2: Ctrl-C", "start it again"),
    signal.SIGPIPE: ("ended by signal 13: nobody read what it said any more", "start it again"),
    signal.SIGSEGV: ("crashed (signal 11)", DAMAGED),
    signal.SIGBUS: ("a file was cut or overwritten while it was in use (signal 7)", "put the whole file back"),
    signal.SIGABRT: ("a library gave up (signal 6)", DAMAGED),
    signal.SIGILL: ("a library was built for another processor (signal 4)", "install it anew on this machine"),
    signal.SIGXCPU: ("ended by signal 24: the limit on computing time was reached", "raise it: ulimit -t"),
    signal.SIGXFSZ: ("ended by signal 25: the limit on a file's size was reached", "raise it: ulimit -f"),
}


def explain_exit(code: int) -> tuple[str, str]:
    """What an exit code means, and what to do. A negative one, or 128 and more as shells write it, is a signal's number."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number:
        known = {int(each): told for each, told in SIGNALS.items()}
        return known.get(number, (f"ended by signal {number}", "start it again"))
    return CODES.get(code, (f"ended unexpectedly (code {code})", "see its log"))
