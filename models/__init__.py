"""Keras and SavedModels only: from transformed examples to a model that serves raw rows."""
