"""What runs on a node: the disk, the locks, the journal, the witnesses. The effects that the core takes as arguments."""
