"""What a recipe says about its features, and the tf.Transform graph that computes them."""
