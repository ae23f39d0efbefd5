"""Programs to read, to run and to copy from; each folder has a README.md."""
