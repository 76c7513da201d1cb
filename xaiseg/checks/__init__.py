"""One file per question; the registry is in :mod:`xaiseg.checks.base`."""
