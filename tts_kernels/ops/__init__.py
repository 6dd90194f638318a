"""The ops: a folder each, with the contract (``__init__``), the specification (``_reference``) and the backends."""
