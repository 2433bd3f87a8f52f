"""Everything that talks to REDHAWK: the only modules that may import omniORB."""
