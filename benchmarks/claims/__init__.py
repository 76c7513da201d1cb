"""RadiomicNet's claims, measured again: other data, a smaller grid, the same questions; see docs/zoo/radiomicnet.md."""
