"""See REDHAWK's shared memory heaps in /dev/shm, and remove those whose creator is provably dead."""

__version__ = "0.1.0"
