"""Source formats: one reader each, from one language of a dataset to rows in the source's order."""
