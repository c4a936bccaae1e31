"""Where the data comes from: one file per source; `text.load_corpus` for all streams of tokens."""
