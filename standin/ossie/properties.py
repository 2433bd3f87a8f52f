"""A device's properties, as REDHAWK's Python has them: loose where that is, strict where that is.

A value is kept on its owner as `__ID__`, as it was converted from the any, and only reading it makes it the
Python type that was declared.
"""

import copy

from omniORB import CORBA, any

from ossie.cf import CF

TYPES = {
    "boolean": (int, CORBA.TC_boolean),
    "char": (str, CORBA.TC_char),
    "double": (float, CORBA.TC_double),
    "float": (float, CORBA.TC_float),
    "long": (int, CORBA.TC_long),
    "longlong": (int, CORBA.TC_longlong),
    "octet": (int, CORBA.TC_octet),
    "short": (int, CORBA.TC_short),
    "string": (str, CORBA.TC_string),
    "ulong": (int, CORBA.TC_ulong),
    "ulonglong": (int, CORBA.TC_ulonglong),
    "ushort": (int, CORBA.TC_ushort),
    "utctime": (CF.UTCTime, CF._tc_UTCTime),
}
BITS = {"octet": 8, "ushort": 16, "ulong": 32, "ulonglong": 64, "short": 16, "long": 32, "longlong": 64}
KINDS = ("configure", "property")
NULL = CORBA.Any(CORBA.TC_null, None)


def to_python(value, type_):
    """A value as its type is read in Python; ValueError, TypeError or KeyError if it cannot be."""
    wanted = TYPES[type_][0]
    if value is None or isinstance(value, wanted):
        return value
    if type_ == "boolean" and isinstance(value, str):
        # Any other text stays what it is, and is true.
        return {"TRUE": 1, "FALSE": 0}.get(value.strip().upper(), value)
    if wanted is CF.UTCTime:
        return CF.UTCTime(value["tcstatus"], value["twsec"], value["tfsec"])
    if wanted is int and isinstance(value, str):
        return int(value, 0)
    return wanted(value)


def fields_of(struct):
    """The members that a struct's class declares, in their order."""
    return [field for field in vars(struct).values() if isinstance(field, simple_property)]


def struct_to_any(value):
    members = [CF.DataType(field.id_, field._toAny(field.get(value))) for field in fields_of(type(value))]
    return props_to_any(members)


def props_to_any(properties):
    return CORBA.Any(CF._tc_Properties, properties)


def struct_from_members(members, struct):
    """An instance, its members as they came. Every one must be there, unknown ones do no harm."""
    given = {member["id"]: member["value"] for member in members}
    value = struct()
    for field in fields_of(struct):
        if field.id_ not in given and not field.optional:
            raise ValueError(f"no member {field.id_}")
        field.set(value, given.get(field.id_))
    return value


def members_of(value):
    return value and [(field.id_, field.get(value)) for field in fields_of(type(value))]


class _property:
    type_ = None

    def __init__(
        self,
        id_,
        name=None,
        mode="readwrite",
        action="external",
        kinds=KINDS,
        description=None,
        fget=None,
        fset=None,
        fval=None,
    ):
        self.id_, self.name, self.mode, self.action = id_, name or id_, mode, action
        self.kinds = (kinds,) if isinstance(kinds, str) else kinds
        self.fget, self.fset, self.fval = fget, fset, fval
        self.send_event = None
        self.__doc__ = description or f"SCA property {id_}"
        self._attribute = f"__{id_}__"
        self._callback_name = self.name.replace(" ", "_")

    # What may be done with it

    def isProperty(self):
        return "property" in self.kinds

    def isConfigurable(self):
        return ("configure" in self.kinds or self.isProperty()) and self.mode in ("writeonly", "readwrite")

    def isAllocatable(self):
        return "allocation" in self.kinds and self.action == "external"

    def isQueryable(self):
        kinds = {"configure", "property", "execparam"} & set(self.kinds)
        return bool(kinds or self.isAllocatable()) and self.mode in ("readonly", "readwrite")

    def isSendEventChange(self):
        kinds = {"configure", "property"} & set(self.kinds)
        return "event" in self.kinds and bool(kinds or self.isAllocatable())

    # As an attribute of its owner

    def __get__(self, owner, kind=None):
        return self if owner is None else self.get(owner)

    def __set__(self, owner, value):
        self.set(owner, value)

    def get(self, owner):
        return self.fget(owner) if self.fget else getattr(owner, self._attribute, None)

    def set(self, owner, value):
        if self.fset:
            self.fset(owner, value)
        else:
            setattr(owner, self._attribute, value)

    def initialize(self, owner):
        self.set(owner, self.defvalue)

    # Over CORBA

    def _callback(self, owner, prefix):
        found = getattr(owner, f"{prefix}_prop_{self._callback_name}", None)
        return found if callable(found) else None

    def query(self, owner):
        callback = self._callback(owner, "query")
        value = callback() if callback else self.get(owner)
        return value if isinstance(value, CORBA.Any) else self._toAny(value)

    def configure(self, owner, data, quiet=False):
        """Take an any's value, or raise. `quiet`: no property event."""
        value = self._fromAny(data)
        if value is not None:
            self.check(value)
        validate = self._callback(owner, "validate") or (lambda value: True)
        if (self.fval and not self.fval(owner, value)) or not validate(value):
            raise ValueError(f"validation failed for value {value}")
        old = self.get(owner)
        changed = self.comparable(old) != self.comparable(value)
        store = self._callback(owner, "onconfigure")
        if store and changed:
            store(old, value)
        else:
            self.set(owner, value)
        if changed and not quiet and self.send_event and self.isSendEventChange():
            self.send_event(self.id_)

    def check(self, value):
        """ValueError for an integer out of its type's range."""

    def comparable(self, value):
        return value


class simple_property(_property):
    def __init__(self, id_, type_, *, defvalue=None, units=None, complex=False, optional=False, **options):
        if type_ not in TYPES or complex:
            raise ValueError(f"type {type_} is invalid")
        super().__init__(id_, **options)
        self.type_, self.defvalue, self.units, self.optional = type_, defvalue, units, optional

    def __get__(self, owner, kind=None):
        return self if owner is None else to_python(self.get(owner), self.type_)

    def _fromAny(self, data):
        return to_python(any.from_any(data), self.type_)

    def _toAny(self, value):
        if value is None:
            return NULL
        # Raises only once it is marshalled if a time is none.
        return CORBA.Any(
            TYPES[self.type_][1], value if self.type_ == "utctime" else to_python(value, self.type_)
        )

    def check(self, value):
        if self.type_ in BITS:
            span = 1 << BITS[self.type_]
            low = 0 if self.type_.startswith(("o", "u")) else -span // 2
            if value < low or value >= low + span:
                raise ValueError("value out of range")


class struct_property(_property):
    def __init__(self, id_, structdef, *, configurationkind=KINDS, **options):
        super().__init__(id_, kinds=configurationkind, **options)
        self.structdef = structdef
        self.fields = {field.id_: field for field in fields_of(structdef)}

    def initialize(self, owner):
        value = self.structdef()
        for field in self.fields.values():
            field.initialize(value)
        self.set(owner, value)

    def _fromAny(self, data):
        return struct_from_members(any.from_any(data), self.structdef)

    def _toAny(self, value):
        return struct_to_any(value)

    def query(self, owner):
        """Without the optional members that are not set."""
        found = super().query(owner)
        members = [
            member
            for member in found.value()
            if not (self.fields[member.id].optional and member.value.value() in (None, []))
        ]
        return CORBA.Any(found.typecode(), members)

    def check(self, value):
        for field in self.fields.values():
            if field.get(value) is not None:
                field.check(field.get(value))

    def comparable(self, value):
        return members_of(value)


class structseq_property(_property):
    def __init__(self, id_, structdef, *, defvalue=None, configurationkind=KINDS, **options):
        super().__init__(id_, kinds=configurationkind, **options)
        self.structdef, self.defvalue = structdef, defvalue

    def _fromAny(self, data):
        return [struct_from_members(members, self.structdef) for members in any.from_any(data)]

    def _toAny(self, value):
        return NULL if value is None else CORBA.Any(CORBA._tc_AnySeq, [struct_to_any(item) for item in value])

    def check(self, value):
        for item in value:
            struct_property.check(struct_property(self.id_, self.structdef), item)

    def comparable(self, value):
        return value and [members_of(item) for item in value]


class PropertyStorage:
    """A device's properties by id, in the alphabetical order of its attributes."""

    def __init__(self, owner, execparams):
        self.owner, self.execparams = owner, execparams
        self.listeners = {}
        self.by_id, self.ids = {}, {}
        for attribute in dir(type(owner)):
            found = getattr(type(owner), attribute)
            if isinstance(found, _property):
                if found.id_ in self.by_id or found.name in self.ids:
                    raise KeyError(f"property {found.id_} is there already, or its name is")
                self.by_id[found.id_] = copy.deepcopy(found)
                self.ids[found.name] = found.id_

    def initialize(self):
        """The defaults, then what the command line says: of any kind and mode, and no validator is asked."""
        for found in self.by_id.values():
            found.initialize(self.owner)
        for key, text in self.execparams.items():
            if key in self.by_id:
                self[key] = self._converted(text, self.by_id[key].type_)
            elif key in self.ids:
                raise KeyError(key)

    @staticmethod
    def _converted(text, type_):
        if type_ == "boolean":
            return {"TRUE": True, "FALSE": False, "1": True, "0": False}.get(text.strip().upper())
        if type_ in ("short", "long", "ulong", "ushort"):
            return int(text)
        return float(text) if type_ in ("float", "double") else text

    def configure(self, id_, data):
        found = self.by_id[id_]
        old = found.get(self.owner)
        found.configure(self.owner, data)
        new = found.get(self.owner)
        listener = self.listeners.get(id_)
        if listener and {"configure", "execparam"} & set(found.kinds):
            listener(id_, old, new)
        elif listener and old != new:
            # Two instances of a struct are never the same.
            if listener.__code__.co_argcount != 4:
                raise TypeError(f"{listener.__name__} has the wrong number of arguments")
            listener(id_, old, new)

    def construct(self, id_, data):
        self.by_id[id_].configure(self.owner, data, quiet=True)

    def query(self, id_):
        return self.by_id[id_].query(self.owner)

    def addChangeListener(self, callback, ids):
        for id_ in [ids] if isinstance(ids, str) else ids:
            self.listeners[id_] = callback

    def setPropertyChangeEvent(self, send):
        for found in self.by_id.values():
            found.send_event = send
            if type(found) is struct_property:
                # The class's own: no second device of it can be made, for want of a deepcopy of what sends.
                for member in fields_of(found.structdef):
                    member.sendPropertyChangeEvent = send

    def getPropDef(self, id_):
        return self.by_id[id_]

    def has_id(self, id_):
        return id_ in self.by_id

    def keys(self):
        return list(self.by_id)

    def items(self):
        return list(self.by_id.items())

    def __getitem__(self, key):
        return self.by_id[key if key in self.by_id else self.ids[key]].get(self.owner)

    def __setitem__(self, key, value):
        self.by_id[key if key in self.by_id else self.ids[key]].set(self.owner, value)
