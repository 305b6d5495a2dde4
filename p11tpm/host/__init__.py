"""Being a guest in somebody's process: settings, files, the log, late imports."""
