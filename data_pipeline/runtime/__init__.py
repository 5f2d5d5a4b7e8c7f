"""What programs share: flags, errors, exit codes, files, progress, worker processes."""
