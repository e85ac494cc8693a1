"""Results on the disk: one SQLite file beside the CSV holds everything, and the CSV is made from it."""
