"""The ops: one folder each, holding the contract (``__init__``), the specification (``_reference``) and the backends."""
