"""Listeners of CF::PropertyEmitter, which receive property changes at intervals."""

import threading
import time
import uuid

from gppshm.redhawk.corba import CF, CORBA, named
from gppshm.redhawk.runtime.ports import consumer_of
from gppshm.redhawk.runtime.properties import now
from gppshm.redhawk.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Callable, Dict, List, Optional

LEAST = 0.1
"""Seconds between two reports to a listener."""
MOST = 86400.0
PATIENCE = 5
"""Reports in a row that may fail; then the listener is forgotten."""


class _Listener:
    def __init__(self, send: "Callable[[Any], None]", ids: "List[str]", interval: float) -> None:
        self.send = send
        self.ids = ids
        self.interval = interval
        self.due = time.monotonic()
        self.sent: Dict[str, object] = {}
        self.failures = 0


class Listeners:
    """Reports changes, in a thread that exists while there are listeners.

    identifier  of the device; `item` gives a property by its id
    """

    def __init__(self, identifier: str, item: "Callable[[str], Any]", log: "logging.Logger") -> None:
        self._identifier = identifier
        self._item = item
        self._log = log
        self._listeners: Dict[str, _Listener] = {}
        self._changed = threading.Condition()
        self._thread: Optional[threading.Thread] = None

    def add(self, identifier: str, listener: "Any", ids: "List[str]", interval: float) -> None:
        """ValueError if it is neither a CF::PropertyChangeListener nor an event channel."""
        try:
            known = listener and listener._narrow(CF.PropertyChangeListener)
            send = known and known.propertyChange
            if not send:
                consumer = consumer_of(listener)
                if consumer is None:
                    raise ValueError("that is neither a CF::PropertyChangeListener nor an event channel")
                typecode = CF.PropertyChangeListener._tc_PropertyChangeEvent

                def send(event: "Any") -> None:
                    consumer.push(CORBA.Any(typecode, event))

        except CORBA.Exception as error:
            raise ValueError(f"it does not answer: {named(error)}") from None
        # NaN counts as the minimum.
        added = _Listener(send, ids, min(MOST, max(LEAST, interval)))
        added.sent = {id_: _comparable(item) for id_, item in self._items(ids).items()}
        with self._changed:
            self._listeners[identifier] = added
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def remove(self, identifier: str) -> None:
        """KeyError if it is unknown."""
        with self._changed:
            del self._listeners[identifier]
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._listeners.clear()
            self._changed.notify_all()

    def _items(self, ids: "List[str]") -> "Dict[str, Any]":
        return {id_: self._item(id_) for id_ in ids}

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._listeners:
                    self._thread = None
                    return
                identifier, listener = min(self._listeners.items(), key=lambda pair: pair[1].due)
                wait = listener.due - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                listener.due = time.monotonic() + listener.interval
            self._report(identifier, listener)

    def _report(self, identifier: str, listener: _Listener) -> None:
        items = self._items(listener.ids)
        shown = {id_: _comparable(item) for id_, item in items.items()}
        news = [id_ for id_ in listener.ids if shown[id_] != listener.sent.get(id_)]
        if not news:
            return
        event = CF.PropertyChangeListener.PropertyChangeEvent(
            str(uuid.uuid4()),
            identifier,
            self._identifier,
            [items[id_] for id_ in news],
            now(),
        )
        try:
            listener.send(event)
            listener.sent, listener.failures = shown, 0
        except CORBA.Exception as error:
            listener.failures += 1
            if listener.failures >= PATIENCE:
                self._log.warning(
                    "a listener (%s) is forgotten, as it cannot be reached: %s",
                    plain(identifier),
                    named(error),
                )
                with self._changed:
                    self._listeners.pop(identifier, None)


def _comparable(value: "Any") -> object:
    """Equal for equal values.  Encoded bytes are not, as their padding is arbitrary (omniORB 4.2)."""
    if isinstance(value, CORBA.Any):
        return str(value.typecode().kind()), _comparable(value.value())
    if isinstance(value, (list, tuple)):
        return tuple(_comparable(item) for item in value)
    if isinstance(value, CF.DataType):
        return value.id, _comparable(value.value)
    if isinstance(value, CF.UTCTime):
        return value.tcstatus, value.twsec, value.tfsec
    return repr(value)
