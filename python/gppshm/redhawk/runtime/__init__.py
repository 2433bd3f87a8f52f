"""The device's runtime, instead of REDHAWK's `ossie`, which is for Python 2 in REDHAWK 2.3.

It implements the parts of CF::Device that this project's device needs, on omniORBpy alone, for REDHAWK 2.3
and
3.0, in a domain and in the sandbox.  It knows nothing of shared memory.  Declarations look as with ossie.
"""
