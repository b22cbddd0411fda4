"""What carries out a run on this machine: a private clone, a supervised process tree, a sandbox."""
