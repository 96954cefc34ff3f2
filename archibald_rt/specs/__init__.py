"""The interface described for machines, out of the types that read and write it. No I/O."""
