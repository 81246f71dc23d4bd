"""Where pipelines run: one module for each runner, which knows what it needs.

A module has `BEAM`, Beam's name of the runner; `check`, which looks for what may be missing;
`options`, which completes the options that a user gave; and, where Beam submits through a
job server, `server`, the command that starts it.
"""
