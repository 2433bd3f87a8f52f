"""Makes third-party modules importable in a process that was started without them.

The commands start with `-I -S`: only the standard library and this package can be imported, which is safe
for root and saves the milliseconds that the site module costs.
"""

import sys

_enabled = False


def enable() -> None:
    """Make the installed packages of this interpreter's environment importable, such as psutil.

    Does what Python does at start without `-S`: adds the site-packages of the virtual environment of
    `sys.executable`, or else of the system (including Debian's dist-packages), at the end of sys.path, and
    runs their .pth files and sitecustomize.  Under `-I` neither PYTHONPATH, nor the user's own site-packages,
    nor the current directory is added.  Does nothing if site was loaded at start, or at a second call.
    Missing packages raise nothing here, only when they are imported.
    """
    global _enabled
    if _enabled or not sys.flags.no_site:
        return
    import site

    site.main()
    _enabled = True
