"""Being a guest in somebody's process: settings, files, the log, imports when they are needed."""
