"""The commands redhawk-shminfo, -shmclean, -shmwatch and -shmtop: one module each, with `main(argv=None) -> int`."""
