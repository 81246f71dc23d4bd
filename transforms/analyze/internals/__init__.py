"""All that the fused analysis knows of tf.Transform's internals.

tf.Transform traces a `preprocessing_fn` into a graph in which each analyzer's result is a
placeholder, and keeps beside it a small graph of operations that says how each result is
computed. Here that becomes phases of folds and steps, and the constants found become a
transform graph, written by tf.Transform itself. What is not known here is `Unsupported`, and
then `tft_beam.AnalyzeDataset` does the whole analysis instead.
"""
