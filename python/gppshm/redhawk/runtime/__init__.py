"""What the device runs on, in the place of REDHAWK's `ossie`, which is for Python 2 in REDHAWK 2.3.

As much of a CF::Device as this project's needs, on omniORBpy alone, the same for REDHAWK 2.3 and 3.0, in a
domain and in the sandbox.  It knows nothing of shared memory.  What a class declares looks as with ossie.
"""
