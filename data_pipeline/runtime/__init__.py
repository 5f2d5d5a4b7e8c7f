"""Runtime of all programs: flags, errors, exit codes, files, progress, worker processes."""
