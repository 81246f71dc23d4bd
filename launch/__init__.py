"""The doors: command line and runners."""
