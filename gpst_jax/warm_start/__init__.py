"""Initial parameters other than random ones: warm starts and fine-tuning."""
