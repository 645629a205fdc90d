"""The work of each verb: the parts of a run, studies, launch scripts, and questions about a corpus or a model."""
