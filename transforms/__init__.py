"""One step of the data's road per file."""
