"""Teachers: the slow, strong recommenders whose rankings students learn."""
