"""The service, the watch folder and the tools for language models: a trained model that waits for scans.

All three give scans to one worker process (:mod:`detseg3d.serving.worker`), which holds the model. The service and the
tools need the extra ``serve``, and only their commands import the packages of this extra.
"""
