"""Source formats: one small reader each. A reader turns one language of a dataset into rows, in the source's order."""
