"""The pieces of `cstl.report`: a run's folder is read, worked out, drawn, and laid out as one page."""
