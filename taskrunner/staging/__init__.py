"""Moving a task's files: inputs to scratch disk before the executors run, outputs to their URLs after.

`download` and `upload` tell the two stories. Both cut files into parts (`parts`, pure) and let a fixed number
of lanes (`lanes`: threads with a connection each) carry them, while the event loop decides what comes next,
tries again and tells how far it is (`progress`). What a task's outputs are is found out by
`outputs`, with `patterns` for names with wildcards.
"""
