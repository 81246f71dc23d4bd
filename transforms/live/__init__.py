"""A recipe's rows as they come: micro-batches, each committed whole to an online store."""
