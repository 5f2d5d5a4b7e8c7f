"""Studies: cells of runs and conditions, their recorded scores, and pages of what these allow."""
