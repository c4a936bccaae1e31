"""Who watches a run: the progress display and the trackers. Training never depends on them."""
