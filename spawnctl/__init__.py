"""The command ``spawnctl``: flags, service files, the background process and the sandbox of test mode."""
