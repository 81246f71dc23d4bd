"""Windowed features: one definition for history, stream and serving."""
