"""The commands, redhawk-shminfo and others: one module each, with `main(argv=None) -> int`."""
