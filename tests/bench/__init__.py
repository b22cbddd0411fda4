"""What the gate costs, measured beside plain git that does the same job: `python -m tests.bench`."""
