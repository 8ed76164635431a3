"""Operations: what takes longer than a request should, and is answered with 202."""
