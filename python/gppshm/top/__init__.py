"""What redhawk-shmtop shows: looked at in threads (scanner, details), drawn as plain lines (draw, view).

`screen` alone knows the terminal library; one frame can be printed without it.
"""
