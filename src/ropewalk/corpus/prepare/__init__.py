"""Makes a corpus folder from sources: cleans and tokenises each source once, selects documents, writes a ledger."""
