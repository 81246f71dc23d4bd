"""An exported model as a server: TensorFlow Serving's protocol over REST and gRPC."""
