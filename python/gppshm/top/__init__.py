"""The display of redhawk-shmtop: data from threads, drawn as plain lines (canvas, panels, table).

`terminal` alone imports the terminal library; one frame can be printed without it.
"""
