"""What speaks to REDHAWK: the only modules that may import omniORB."""
