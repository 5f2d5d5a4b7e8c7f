"""Exit codes of all programs, for supervisors, batch systems and scripts.

| code | constant     | meaning                                                              |
|-----:|--------------|----------------------------------------------------------------------|
|    0 | OK           | done                                                                 |
|    1 | DEFECT       | a defect of this project, with a traceback                           |
|    2 | BAD_INPUT    | unusable flag, file or config; one line says which                   |
|    3 | PARTIAL      | some inputs failed, or are not as they must be; the rest is done     |
|    4 | DIVERGED     | too many updates in a row were not finite, or spiked                 |
|    5 | DOES_NOT_FIT | the run needs more memory than there is                              |
|   69 | NOT_READY    | an accelerator, port or host does not answer yet; try again          |
|   70 | STALLED      | no step ended within `train.stall_abort_minutes`                     |
|   74 | STORAGE      | the storage failed: it is full, or reads back something else         |
|   75 | INTERRUPTED  | SIGTERM or SIGINT; the state is saved                                |

Those up to `LAST_FINAL` are final: the same command would end in the same way. After 69, 70 and 75,
and after 74 once the storage is fixed, the same command goes on. 128 + N, or -N where a program
started it, is a process that signal N ended. `tpu_scripts` follow the same table.
"""

OK = 0
DEFECT = 1  # what Python itself returns after an unhandled exception
BAD_INPUT = 2
PARTIAL = 3
DIVERGED = 4
DOES_NOT_FIT = 5
LAST_FINAL = DOES_NOT_FIT
# As in sysexits.h: EX_UNAVAILABLE, EX_SOFTWARE, EX_IOERR, EX_TEMPFAIL.
NOT_READY = 69
STALLED = 70
STORAGE = 74
INTERRUPTED = 75
SIGINT = 130  # of a program that saves nothing by itself
