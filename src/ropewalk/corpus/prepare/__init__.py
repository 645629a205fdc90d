"""From sources to a corpus folder: each cleaned and tokenised once, then chosen among, with a ledger."""
