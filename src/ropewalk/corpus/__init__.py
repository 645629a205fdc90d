"""From files to rows of tokens: read, clean, de-duplicate, tokenise once, mix and pack by index. Needs no torch."""
