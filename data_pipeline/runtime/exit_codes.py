"""Exit codes of all programs, for supervisors, batch systems and scripts.

| code | constant    | programs | meaning                                                    |
|-----:|-------------|----------|------------------------------------------------------------|
|    0 | OK          | all      | finished                                                   |
|    1 | DIVERGED    | training | too many updates in a row were not finite, or spiked       |
|    1 | PARTIAL     | data     | some inputs failed; the rest is written                    |
|    2 | BAD_INPUT   | all      | unusable flag, file or config; one line says which         |
|   70 | STALLED     | training | no step ended within `train.stall_abort_minutes`           |
|   74 | STORAGE     | training | reading or writing a checkpoint, metrics or shard failed   |
|   75 | INTERRUPTED | training | SIGTERM or SIGINT; the state is saved                      |

After 70 and 75, and after 74 once the storage is fixed, the same command resumes the run. An
unhandled exception exits with Python's own 1, and a traceback.
"""

OK = 0
DIVERGED = 1
PARTIAL = 1
BAD_INPUT = 2
# As in sysexits.h: EX_SOFTWARE, EX_IOERR, EX_TEMPFAIL.
STALLED = 70
STORAGE = 74
INTERRUPTED = 75
