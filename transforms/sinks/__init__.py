"""Where rows and features end: files."""
