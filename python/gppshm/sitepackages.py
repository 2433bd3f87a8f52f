"""Third-party modules for a process that was started without them.

The commands start with `-I -S`: the standard library and this package alone can be imported, which
is safe for root and saves the milliseconds that the site module costs.
"""

import sys

_enabled = False


def enable() -> None:
    """Make the installed packages of this interpreter's environment importable (psutil is why).

    Does what Python itself does at start without `-S`: adds the site-packages of the virtual environment
    of `sys.executable`, or else of the system (Debian's dist-packages too), behind what is on sys.path
    already, and runs their .pth files and sitecustomize. Under `-I` neither PYTHONPATH, nor the user's
    own site-packages, nor the current directory is added. Where site was loaded at start this does
    nothing; a second call does nothing. Nothing is raised when a package is not there: importing it tells.
    """
    global _enabled
    if _enabled or not sys.flags.no_site:
        return
    import site

    site.main()
    _enabled = True
