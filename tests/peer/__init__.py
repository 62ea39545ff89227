"""Our files in AdapterHub's own hands: what we write, it loads and runs. Started by `make test-peer`."""
