"""The parts of gpu_report.py: each file is one part, a program of its own that prints lines of JSON."""
