"""Moving a task's files: inputs to scratch disk before the executors run, outputs to their URLs after.

`stage_in` and `stage_out` tell the two stories; `download` and `upload` move any list of files, `look_up` finds
those to download, and `outputs` those that executors have made. Files are cut into parts (`parts`), which lanes
(`lanes`: threads with connections of their own) take from a schedule (`schedule`), while the event loop decides
how many of them work (`width`), what is tried again (`flow`) and what is given up (`outliers`).
"""
