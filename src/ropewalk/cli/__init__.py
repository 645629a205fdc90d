"""The command line: one thin verb per part of a run. A verb imports its part only when it is called."""
