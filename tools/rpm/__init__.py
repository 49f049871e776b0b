"""The packages for Fedora and its kin: built, and proved in a root of their own. `nox -s rpm`."""
