"""What the generator has to beat: plainer networks given the same pairs, as often."""
