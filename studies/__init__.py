"""Studies: many runs of one question, with statistics and a report. A development tool, not part of the package."""
