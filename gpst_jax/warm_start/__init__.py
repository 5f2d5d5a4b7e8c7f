"""Everything that a run can start from except random initialisation."""
