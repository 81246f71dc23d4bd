"""Whole journeys: recipe, batch, training, verifying."""
