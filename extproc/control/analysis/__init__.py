"""Analyses: what is due and decided (``runs``), what is measured (``measuring``, ``windows``), and the statistics."""
