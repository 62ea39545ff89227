"""ReFT: learned changes of the states of a few tokens, within a low-rank subspace."""
