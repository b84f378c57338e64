"""The contracts of ``extproc.testing``, held by every adapter whose server is there."""
