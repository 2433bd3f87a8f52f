"""The commands redhawk-shminfo, -shmclean and -shmwatch: one module each, with `main(argv=None) -> int`."""
