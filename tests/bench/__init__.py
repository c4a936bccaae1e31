"""The benchmark: `python -m tests.bench` (see __main__). What is compared is timed in turns, in one run."""
