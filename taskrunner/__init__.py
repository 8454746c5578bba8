"""taskrunner runs one GA4GH TES task as the entrypoint of an AWS Batch container.

It stages the inputs to scratch disk, runs the task's executors as sibling containers through the host's
Docker socket, uploads the outputs and tells all of it as JSON events in Funnel's format. The program is
the interface: `taskrunner run TASK`. Nothing here but `__version__` is promised to importers.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
