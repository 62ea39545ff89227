"""ScaLearn: a fusion that scales the increments of its children and adds them up."""
