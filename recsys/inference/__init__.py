"""The pass of a teacher over rows of a dataset: the engine, the windows it reads, the processes it runs in."""
