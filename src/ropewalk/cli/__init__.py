"""The command line: one verb per part of a run, each thin; a verb imports its part only when it is called."""
