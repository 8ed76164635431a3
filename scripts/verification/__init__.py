"""Proof that the service keeps its promise, written independently of the code that keeps it.

    fingerprints   what an event says, as one number
    decoding       delivered bytes to columns, by pyarrow alone
    expectations   what a view must hold, said in NumPy
    recording      what publishers were told and what consumers received
    checker        the comparison of the two
    report         what the comparison found
    recorders      plain Pulsar clients that fill the record
    load           synthetic events at a given pace
    control_api    the control plane's HTTP API as a user of it writes it

Nothing here imports `functions`, nor the filters, transformations, formats or continuity checks of
`marketdata`: a fault in those must not hide itself.
"""
