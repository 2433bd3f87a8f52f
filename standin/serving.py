"""Common to the stand-in's programs: settings, a serving ORB, the naming service."""

import functools
import os
import sys

import omniORB

# isort: split
import CosNaming
from omniORB import CORBA


def reads(attribute):
    """What gives a CORBA attribute's value: a servant's own attribute."""
    return functools.partialmethod(getattr, attribute)


def settings():
    """The name/value pairs of the command line."""
    return dict(zip(sys.argv[1::2], sys.argv[2::2]))


def orb(name):
    """An ORB whose objects can be called; its own calls time out after 10 s, as in REDHAWK."""
    omniORB.setClientCallTimeout(10000)
    found = CORBA.ORB_init([name, "-ORBendPoint", "giop:tcp:127.0.0.1:"], CORBA.ORB_ID)
    activate(found)
    return found


def activate(orb):
    orb.resolve_initial_references("RootPOA")._get_the_POAManager().activate()


def name(*words):
    return [CosNaming.NameComponent(word, "") for word in words]


def naming(orb):
    """The root of the naming service in the ORB's configuration."""
    return orb.resolve_initial_references("NameService")._narrow(CosNaming.NamingContext)


def new_context(parent, word):
    """A new naming context; an existing one of that name is dropped with its contents."""
    try:
        return parent.bind_new_context(name(word))
    except CosNaming.NamingContext.AlreadyBound:
        parent.unbind(name(word))
        return parent.bind_new_context(name(word))


def say(text):
    print(text, flush=True)


def write_whole(path, text):
    """Replace a file in one step."""
    with open(path + ".new", "w") as stream:
        stream.write(text)
    os.rename(path + ".new", path)
