"""Files on the disk: how they are written safely, and how their paths are shown."""
