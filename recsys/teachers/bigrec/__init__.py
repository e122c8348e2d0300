"""BIGRec: a language model writes the title of the next item, and the title is grounded in the catalogue."""
